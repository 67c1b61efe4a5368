"""The plain recurrent network, which the LSTM is measured against: no gates, so its memory fades."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gatewatch.models.training.architectures.base import State
from gatewatch.models.training.architectures.cells import StackedForecaster


class RNNForecaster(StackedForecaster):
    """L layers of H units; the head sees the top layer's h.

    h' = tanh(W x + R h + b)

    Source: Elman 1990.
    """

    def __init__(self, channels: int, layers: int, hidden: int, dropout: float) -> None:
        cells = nn.RNN(2 * channels + 1, hidden, layers, dropout=dropout if layers > 1 else 0.0)
        super().__init__(channels, cells, ("h",))

    def cell(self, layer: int, below: Tensor, before: State) -> State:
        """One step of one layer; see above."""
        w, r, b, d = self.cells.all_weights[layer]
        inputs = torch.cat([below, before["h"]], dim=-1)
        return {"h": torch.tanh(functional.linear(inputs, torch.cat([w, r], dim=1), b + d))}
