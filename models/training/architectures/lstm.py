"""The stacked LSTM forecaster, the default."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gatewatch.models.training.architectures.base import State
from gatewatch.models.training.architectures.cells import StackedForecaster
from gatewatch.models.training.architectures.chrono import remembered
from gatewatch.models.training.architectures.gaps import Filler, unroll_with_gaps

FEW = 8
"""Of so many readings one with a gap is few: the kernel runs over the stretches between them."""

Gates = list[tuple[Tensor, Tensor]]
"""Per layer [W R] (4H, inputs + H) and b (4H,)."""


def remember(cells: nn.LSTM) -> None:
    """Start the forget gates' biases at 1, the others at 0: an untrained cell remembers (Gers et al. 2000)."""
    with torch.no_grad():
        for layer in range(cells.num_layers):
            getattr(cells, f"bias_ih_l{layer}").zero_()
            bias = getattr(cells, f"bias_hh_l{layer}").zero_()
            bias[cells.hidden_size : 2 * cells.hidden_size] = 1.0


def remember_long(cells: nn.LSTM, longest: int) -> None:
    """Start the biases of the forget gates as in `chrono`, and those of the input gates at the opposite."""
    with torch.no_grad():
        for layer in range(cells.num_layers):
            bias = remembered(cells.hidden_size, longest)
            getattr(cells, f"bias_hh_l{layer}")[: 2 * cells.hidden_size] = torch.cat([-bias, bias])


def layer_gates(cells: nn.LSTM, layer: int) -> tuple[Tensor, Tensor]:
    """A layer's weights as `lstm_cell` takes them: one matrix product a layer is what exports to few nodes."""
    w, r, b, d = cells.all_weights[layer]
    return torch.cat([w, r], dim=1), b + d


def gates(cells: nn.LSTM) -> Gates:
    """The weights of all layers."""
    return [layer_gates(cells, layer) for layer in range(cells.num_layers)]


def lstm_cell(weight: Tensor, bias: Tensor, hidden: int, below: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step of one layer, as nn.LSTM makes it; returns h and c (B, H) after it.

    Args:
        hidden: H, which shapes alone would not make a constant of the exported graph.
        below: (B, inputs).
        h, c: (B, H) before it.
    """
    # split, not chunk: chunk exports to 12 nodes more a layer (106 nodes and 79 µs a step against 58 and 64)
    i, f, g, o = torch.split(functional.linear(torch.cat([below, h], dim=-1), weight, bias), hidden, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def step_cells(weights: Gates, hidden: int, below: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of every layer.

    Args:
        below: (B, inputs).
        h, c: (B, L, H) before it.

    Returns:
        The top layer's h (B, H), and h and c (B, L, H) after it.
    """
    next_h, next_c = [], []
    for layer, (weight, bias) in enumerate(weights):
        below, memory = lstm_cell(weight, bias, hidden, below, h[:, layer], c[:, layer])
        next_h.append(below)
        next_c.append(memory)
    return below, torch.stack(next_h, dim=1), torch.stack(next_c, dim=1)


class LSTMForecaster(StackedForecaster):
    """L layers of H units; the head sees the top layer's h.

    i, f, o = σ(W x + R h + b)    g = tanh(W x + R h + b)
    c' = f ∘ c + i ∘ g            h' = o ∘ tanh(c')

    Source: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.
    """

    cells: nn.LSTM

    def __init__(self, channels: int, layers: int, hidden: int, dropout: float, width: int | None = None) -> None:
        """`width` units for the head, H if None."""
        cells = nn.LSTM(2 * channels + 1, hidden, layers, dropout=dropout if layers > 1 else 0.0)
        super().__init__(channels, cells, ("h", "c"), width)
        remember(cells)

    def remember(self, longest: int) -> None:
        """See Forecaster."""
        remember_long(self.cells, longest)

    def unroll(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """The same for all; but over many gaps with a gradient that is written out, and several times as fast."""
        gaps = int((observed < 1).flatten(1).any(dim=1).sum())  # readings with one in any stream
        if gaps * FEW <= len(x) or self.head.in_features != self.hidden + 1:
            return super().unroll(x, observed, elapsed, state)
        location = self.head.weight[: self.channels]  # (C, H + 1)
        filler = Filler(location[:, :-1], self.head.bias[: self.channels] + elapsed * location[:, -1], self.keep)
        masks = [
            functional.dropout(x.new_ones(*x.shape[:2], self.hidden), self.cells.dropout)
            for _ in range(self.layers - 1)
            if self.training and self.cells.dropout
        ]
        h, c = (state[name].transpose(0, 1) for name in self.carried)
        tops, filled, next_h, next_c = unroll_with_gaps(
            x, observed, elapsed, (h, c, state["last"]), gates(self.cells), filler, masks
        )
        last = torch.cat([state["last"][None], filled[:-1]])
        mean, scale = self.read(torch.cat([h[-1:], tops[:-1]]), last, elapsed)
        return mean, scale, {"h": next_h.transpose(0, 1), "c": next_c.transpose(0, 1), "last": filled[-1]}

    def cell(self, layer: int, below: Tensor, before: State) -> State:
        """One step of one layer; see above."""
        h, c = lstm_cell(*layer_gates(self.cells, layer), self.hidden, below, before["h"], before["c"])
        return {"h": h, "c": c}
