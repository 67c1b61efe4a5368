"""The peephole LSTM forecaster: its gates see the cell state, which the output gate may be hiding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gatewatch.models.training.architectures.base import State
from gatewatch.models.training.architectures.cells import StackedForecaster
from gatewatch.models.training.architectures.lstm import remember, remember_long


class PeepholeForecaster(StackedForecaster):
    """L layers of H units; the head sees the top layer's h.

    i = σ(W x + R h + p ∘ c + b)     f likewise        g = tanh(W x + R h + b)
    c' = f ∘ c + i ∘ g               o = σ(W x + R h + p ∘ c' + b)       h' = o ∘ tanh(c')

    With p = 0, as at the start, it is the LSTM. No kernel of torch's has peepholes: W x is computed for all T
    readings at once, the rest one by one.

    Source: Gers & Schmidhuber 2000, "Recurrent nets that time and count".
    """

    cells: nn.LSTM

    def __init__(self, channels: int, layers: int, hidden: int, dropout: float) -> None:
        cells = nn.LSTM(2 * channels + 1, hidden, layers, dropout=dropout if layers > 1 else 0.0)
        super().__init__(channels, cells, ("h", "c"))
        self.peepholes = nn.Parameter(torch.zeros(layers, 3, hidden))  # to i, f, o
        remember(cells)

    def remember(self, longest: int) -> None:
        """See Forecaster."""
        remember_long(self.cells, longest)

    def cell(self, layer: int, below: Tensor, before: State) -> State:
        """One step of one layer; see above."""
        w, _, b, d = self.cells.all_weights[layer]
        h, c = self._recur(layer, functional.linear(below, w, b + d), before["h"], before["c"])
        return {"h": h, "c": c}

    def run(self, seen: Tensor, cells: State) -> tuple[Tensor, State]:
        """Layer by layer, each over all T readings."""
        below, after = seen, []
        for layer in range(self.layers):
            w, _, b, d = self.cells.all_weights[layer]
            h, c, tops = cells["h"][:, layer], cells["c"][:, layer], []
            for now in functional.linear(below, w, b + d).unbind():
                h, c = self._recur(layer, now, h, c)
                tops.append(h)
            after.append((h, c))
            dropped = self.training and layer + 1 < self.layers
            below = functional.dropout(torch.stack(tops), self.cells.dropout, dropped)
        h, c = (torch.stack(layers, dim=1) for layers in zip(*after, strict=True))
        return below, {"h": h, "c": c}

    def _recur(self, layer: int, from_below: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """h and c (B, H) after `from_below` (B, 4H), which is W x + b."""
        to_i, to_f, to_o = self.peepholes[layer].unbind()
        i, f, g, o = torch.split(
            from_below + functional.linear(h, self.cells.all_weights[layer][1]), self.hidden, dim=-1
        )
        c = torch.sigmoid(f + to_f * c) * c + torch.sigmoid(i + to_i * c) * torch.tanh(g)
        return torch.sigmoid(o + to_o * c) * torch.tanh(c), c
