"""The stacked GRU forecaster: an LSTM with one gate fewer and no cell state beside h."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gatewatch.models.training.architectures.base import State
from gatewatch.models.training.architectures.cells import StackedForecaster
from gatewatch.models.training.architectures.chrono import remembered


class GRUForecaster(StackedForecaster):
    """L layers of H units; the head sees the top layer's h.

    r, z = σ(W x + b + R h + d)       n = tanh(W x + b + r ∘ (R h + d))
    h' = n + z ∘ (h - n)

    Source: Cho et al. 2014, with the reset behind the matrix product, as torch.nn.GRU and cuDNN have it.
    """

    def __init__(self, channels: int, layers: int, hidden: int, dropout: float) -> None:
        cells = nn.GRU(2 * channels + 1, hidden, layers, dropout=dropout if layers > 1 else 0.0)
        super().__init__(channels, cells, ("h",))

    def remember(self, longest: int) -> None:
        """See Forecaster. The update gate keeps h, and lets in what it does not keep."""
        with torch.no_grad():
            for layer in range(self.layers):
                update = slice(self.hidden, 2 * self.hidden)
                getattr(self.cells, f"bias_ih_l{layer}")[update] = 0.0
                getattr(self.cells, f"bias_hh_l{layer}")[update] = remembered(self.hidden, longest)

    def cell(self, layer: int, below: Tensor, before: State) -> State:
        """One step of one layer; see above."""
        w, r, b, d = self.cells.all_weights[layer]
        h = before["h"]
        reset_x, update_x, new_x = torch.split(functional.linear(below, w, b), self.hidden, dim=-1)
        reset_h, update_h, new_h = torch.split(functional.linear(h, r, d), self.hidden, dim=-1)
        new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
        return {"h": new + torch.sigmoid(update_x + update_h) * (h - new)}
