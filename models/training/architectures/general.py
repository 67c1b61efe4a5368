"""The general network: what a channel of any stream is shown of itself, to where it will be at four horizons."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gatewatch.models.detectors.general.features import FEATURES, HORIZONS
from gatewatch.models.training.architectures.lstm import gates, remember, step_cells

LOG_SCALE_LIMITS = (-2.0, 2.5)
"""Of the channel's step. A channel at rest would take less than a hundredth of a step for its scale, and its gradients
would drown the others': with -5, errors of 0.95, 0.93, 0.94, 0.96 of the last value's (11 M readings); with -2 0.93,
0.88, 0.89, 0.93 (7 M)."""


class GeneralForecaster(nn.Module):
    """L layers of H units over the features of one channel after a reading, and a linear head.

    mean = V [h, features] + d        ln scale = U [h, features] + e        each (N, HORIZONS)

    Both are in units of the channel's own step d_t: the reading `ahead` rows later is forecast at
    x_t + d_t mean. A row is one channel; rows know nothing of each other. The scale serves the expected band only:
    as the measure of a surprise it would explain bursts and changes away.
    """

    def __init__(self, layers: int, hidden: int) -> None:
        super().__init__()
        self.layers, self.hidden = layers, hidden
        self.cells = nn.LSTM(FEATURES, hidden, layers)
        self.head = nn.Linear(hidden + FEATURES, 2 * len(HORIZONS))
        remember(self.cells)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()

    def initial(self, rows: int) -> tuple[Tensor, Tensor]:
        """h and c (N, L, H) of channels that have not been seen: zeros."""
        return torch.zeros(rows, self.layers, self.hidden), torch.zeros(rows, self.layers, self.hidden)

    def forward(self, features: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Take one reading of each of N channels in.

        Args:
            features: (N, FEATURES) see models.detectors.general.features.
            h, c: (N, L, H) before the reading.

        Returns:
            mean, scale (N, HORIZONS), and h and c after the reading.
        """
        top, h, c = step_cells(gates(self.cells), self.hidden, features, h, c)
        mean, scale = self._read(top, features)
        return mean, scale, h, c

    def unroll(self, features: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`forward` over T readings by torch's fused kernel: (T, N, FEATURES) to mean, scale (T, N, HORIZONS), h, c."""
        before = h.transpose(0, 1).contiguous(), c.transpose(0, 1).contiguous()
        top, (h, c) = self.cells(features, before)  # top (T, N, H)
        mean, scale = self._read(top, features)
        return mean, scale, h.transpose(0, 1), c.transpose(0, 1)

    def _read(self, top: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = torch.split(self.head(torch.cat([top, features], dim=-1)), len(HORIZONS), dim=-1)
        return mean, torch.exp(log_scale.clamp(*LOG_SCALE_LIMITS))
