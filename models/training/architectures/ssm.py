"""The diagonal state-space forecaster: each unit of its state turns and fades at a rate of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gatewatch.models.training.architectures.recurrence import Block, BlocksForecaster, recurrence

SHORTEST, LONGEST = 2.0, 2000.0
"""Readings in which a unit fades to 1/e at the start, spread evenly over their logarithms."""

FASTEST_TURN = math.pi / 5
"""Radians a reading at the start: a period of ten readings."""


class _Block(Block):
    """z' = λ ∘ z + √(1 - |λ|²) ∘ B v        λ = exp(-exp(ν) + i θ)        z complex, kept as its two parts."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__(hidden, 2 * hidden, dropout)
        self.log_rate = nn.Parameter(-torch.linspace(math.log(SHORTEST), math.log(LONGEST), hidden))
        self.turn = nn.Parameter(FASTEST_TURN * torch.rand(hidden) ** 2)
        self.drive = nn.Linear(hidden, 2 * hidden, bias=False)

    def step(self, v: Tensor, z: Tensor) -> Tensor:
        """See Block."""
        (real, imaginary), (driven_real, driven_imaginary) = self._parts(z), self._parts(self._driven(v))
        fade, turn = torch.exp(-torch.exp(self.log_rate)), self.turn
        across, along = fade * torch.cos(turn), fade * torch.sin(turn)
        return torch.cat(
            [across * real - along * imaginary + driven_real, across * imaginary + along * real + driven_imaginary],
            dim=-1,
        )

    def run(self, v: Tensor, z: Tensor) -> Tensor:
        """See Block."""
        driven = torch.complex(*self._parts(self._driven(v)))
        rates = torch.exp(torch.complex(-torch.exp(self.log_rate), self.turn)).expand_as(driven)
        after = recurrence(rates, driven, torch.complex(*self._parts(z)))
        return torch.cat([after.real, after.imag], dim=-1)

    def _driven(self, v: Tensor) -> Tensor:
        scale = torch.sqrt(1 - torch.exp(-2 * torch.exp(self.log_rate)))
        driven: Tensor = self.drive(v)
        return driven * torch.cat([scale, scale])

    def _parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        real, imaginary = torch.split(z, self.width // 2, dim=-1)
        return real, imaginary


class SSMForecaster(BlocksForecaster):
    """L blocks of H units of u and H complex units of z.

    Source: the linear recurrent unit of Orvieto et al. 2023, a diagonal state-space model (Gu et al. 2022) already
    in discrete time; the rates begin spread over the memories wanted.
    """

    def __init__(self, channels: int, layers: int, hidden: int, dropout: float) -> None:
        super().__init__(channels, hidden, [_Block(hidden, dropout) for _ in range(layers)])
