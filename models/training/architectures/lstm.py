"""The stacked LSTM forecaster, the default."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.training.architectures.base import State
from models.training.architectures.cells import StackedForecaster

Gates = list[tuple[Tensor, Tensor]]
"""Per layer [W R] (4H, inputs + H) and b (4H,)."""


def remember(cells: nn.LSTM) -> None:
    """Start the forget gates' biases at 1, the others at 0: an untrained cell remembers (Gers et al. 2000)."""
    with torch.no_grad():
        for layer in range(cells.num_layers):
            getattr(cells, f"bias_ih_l{layer}").zero_()
            bias = getattr(cells, f"bias_hh_l{layer}").zero_()
            bias[cells.hidden_size : 2 * cells.hidden_size] = 1.0


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

    def cell(self, layer: int, below: Tensor, before: State) -> State:
        """One step of one layer; see above."""
        h, c = lstm_cell(*layer_gates(self.cells, layer), self.hidden, below, before["h"], before["c"])
        return {"h": h, "c": c}
