"""The feed-forward forecaster over the last M readings, which the LSTM is measured against: it sees no further."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gatewatch.models.training.architectures.base import Shapes, State
from gatewatch.models.training.architectures.cells import CellForecaster


class WindowForecaster(CellForecaster):
    """L layers of H units over the last M readings, which are the stream's state.

    top = tanh(W_L ... tanh(W_1 [s_1, ..., s_M] + b_1) ... + b_L)        s = [x̃, observed, elapsed], oldest first

    What was before a stream's first reading is 0, observed included.
    """

    def __init__(self, channels: int, layers: int, hidden: int, dropout: float, memory: int) -> None:
        super().__init__(channels, hidden)
        self.memory, self.inputs = memory, 2 * channels + 1
        below, parts = memory * self.inputs, list[nn.Module]()
        for _ in range(layers):
            parts += [nn.Linear(below, hidden), nn.Tanh(), nn.Dropout(dropout)]
            below = hidden
        self.net = nn.Sequential(*parts[:-1])

    def cell_shapes(self) -> Shapes:
        """The last M readings as the network sees them, oldest first."""
        return {"recent": (self.memory, self.inputs)}

    def top(self, cells: State) -> Tensor:
        """The whole network."""
        top: Tensor = self.net(cells["recent"].flatten(1))
        return top

    def take(self, seen: Tensor, cells: State) -> State:
        """The oldest reading gives way to the newest."""
        return {"recent": torch.cat([cells["recent"][:, 1:], seen[:, None]], dim=1)}

    def run(self, seen: Tensor, cells: State) -> tuple[Tensor, State]:
        """All T windows at once."""
        readings = torch.cat([cells["recent"], seen.transpose(0, 1)], dim=1)  # (B, M + T, I)
        windows = readings.unfold(1, self.memory, 1)[:, 1:]  # (B, T, I, M)
        tops = self.net(windows.transpose(2, 3).flatten(2))
        return tops.transpose(0, 1), {"recent": readings[:, -self.memory :]}
