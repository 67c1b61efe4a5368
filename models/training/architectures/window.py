"""The feed-forward forecaster over the last M readings, which the LSTM is measured against: it sees no further."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.training.architectures.base import Shapes, State
from models.training.architectures.cells import CellForecaster


class WindowForecaster(CellForecaster):
    """L layers of H units over the last M readings, which are the stream's state.

    top = tanh(W_L ... tanh(W_1 [s_1, ..., s_M] / √M + b_1) ... + b_L)

    s = [x̃, observed - 1, elapsed], oldest first: 0 on average. What was before a stream's first reading was not
    observed. One update moves all weights of a unit at once; with M C ones among its inputs, and without √M, every
    unit was saturated after 45 updates on the streams of benchmarks.memory (lags of 50, M = 100, C = 3).
    """

    usual: Tensor

    def __init__(self, channels: int, layers: int, hidden: int, dropout: float, memory: int) -> None:
        super().__init__(channels, hidden)
        self.memory, self.inputs = memory, 2 * channels + 1
        below, parts = memory * self.inputs, list[nn.Module]()
        for _ in range(layers):
            linear = nn.Linear(below, hidden)
            if not parts:
                nn.init.uniform_(linear.weight, -(self.inputs**-0.5), self.inputs**-0.5)  # as large as without √M
            parts += [linear, nn.Tanh(), nn.Dropout(dropout)]
            below = hidden
        self.net = nn.Sequential(*parts[:-1])
        self.register_buffer("usual", torch.tensor([0.0] * channels + [1.0] * channels + [0.0]), persistent=False)

    def cell_shapes(self) -> Shapes:
        """The last M readings as the network sees them, oldest first."""
        return {"recent": (self.memory, self.inputs)}

    def top(self, cells: State) -> Tensor:
        """The whole network."""
        return self._net(cells["recent"])

    def take(self, seen: Tensor, cells: State) -> State:
        """The oldest reading gives way to the newest."""
        return {"recent": torch.cat([cells["recent"][:, 1:], seen[:, None]], dim=1)}

    def run(self, seen: Tensor, cells: State) -> tuple[Tensor, State]:
        """All T windows at once."""
        readings = torch.cat([cells["recent"], seen.transpose(0, 1)], dim=1)  # (B, M + T, I)
        windows = readings.unfold(1, self.memory, 1)[:, 1:]  # (B, T, I, M)
        tops = self._net(windows.transpose(2, 3))
        return tops.transpose(0, 1), {"recent": readings[:, -self.memory :]}

    def _net(self, recent: Tensor) -> Tensor:
        """(..., M, 2C + 1) to (..., H)."""
        top: Tensor = self.net(((recent - self.usual) / math.sqrt(self.memory)).flatten(-2))
        return top
