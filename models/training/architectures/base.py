"""The contract of every network: forecast a reading from the state before it, then take the reading in."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
"""A stream's state: tensors by name, the batch axis first."""

LOG_SCALE_LIMITS = (-5.0, 2.0)


class Forecaster(nn.Module, ABC):
    """A network that steps B streams by one reading each, or unrolls over T of them with the same result.

    x (B, C) is in standardised units, 0 where missing; observed (B, C) is 1 where there is a value, else 0; elapsed
    (B, 1) is the log of the time since the reading before, in typical intervals. A missing value is replaced by its
    forecast: x̃ = observed ∘ x + (1 - observed) ∘ mean.
    """

    channels: int

    @abstractmethod
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape, without the batch axis, of each tensor of a stream's state."""

    @abstractmethod
    def forecast(self, state: State, elapsed: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale, each (B, C), of the next reading, `elapsed` after the one before."""

    @abstractmethod
    def advance(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> State:
        """The state that has seen x (B, C), in which no value is missing any more."""

    def initial(self, batch: int) -> State:
        """The state of B streams that have not seen a reading: zeros."""
        return {name: torch.zeros(batch, *shape) for name, shape in self.state_shapes().items()}

    def step(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Forecast one reading of each of B streams, then take it in; returns mean, scale (B, C) and the next state."""
        mean, scale = self.forecast(state, elapsed)
        filled = observed * x + (1 - observed) * mean
        return mean, scale, self.advance(filled, observed, elapsed, state)

    def unroll(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """`step` over T readings: x, observed (T, B, C) and elapsed (T, B, 1) to mean, scale (T, B, C), last state."""
        means, scales = [], []
        for now in range(len(x)):
            mean, scale, state = self.step(x[now], observed[now], elapsed[now], state)
            means.append(mean)
            scales.append(scale)
        return torch.stack(means), torch.stack(scales), state
