"""The minimal LSTM forecaster: its gates do not see its state, so that it trains in parallel over time."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from gatewatch.models.training.architectures.chrono import remembered
from gatewatch.models.training.architectures.recurrence import Block, BlocksForecaster, recurrence

FORGET_BIAS = 4.0
"""Spread over the units as 0 to this: from a memory of 2 readings to one of 55, at the start."""

GATE_LIMIT = 15.0
"""Beyond it both gates could be 0, and neither share a number: ONNX Runtime's sigmoid is 0 from -18 on."""


class _Block(Block):
    """f, i = σ(W v + b)        z' = f/(f + i) ∘ z + i/(f + i) ∘ (V v + d)."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__(hidden, hidden, dropout)
        self.gates = nn.Linear(hidden, 2 * hidden)
        self.candidate = nn.Linear(hidden, hidden)
        with torch.no_grad():
            self.gates.bias[:hidden] = torch.linspace(0, FORGET_BIAS, hidden)

    def coefficients(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """(..., H) to the share of z that is kept and what comes to it, each (..., H)."""
        f, i = torch.split(torch.sigmoid(self.gates(v).clamp(-GATE_LIMIT, GATE_LIMIT)), self.width, dim=-1)
        kept = f / (f + i)
        return kept, (1 - kept) * self.candidate(v)

    def step(self, v: Tensor, z: Tensor) -> Tensor:
        """See Block."""
        kept, new = self.coefficients(v)
        return kept * z + new

    def run(self, v: Tensor, z: Tensor) -> Tensor:
        """See Block."""
        return recurrence(*self.coefficients(v), z)


class MinLSTMForecaster(BlocksForecaster):
    """L blocks of H units whose recurrence is a minimal LSTM with its gates normalised, so that no length is favoured.

    Source: Feng et al. 2024, "Were RNNs all we needed?", section 3.2.
    """

    def __init__(self, channels: int, layers: int, hidden: int, dropout: float) -> None:
        super().__init__(channels, hidden, [_Block(hidden, dropout) for _ in range(layers)])

    def remember(self, longest: int) -> None:
        """See Forecaster. f/(f + i) is σ(b) where the biases are b and -b."""
        with torch.no_grad():
            for block in cast(list[_Block], list(self.blocks)):
                bias = remembered(self.hidden, longest)
                block.gates.bias.copy_(torch.cat([bias, -bias]))
