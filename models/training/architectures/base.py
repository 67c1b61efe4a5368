"""The contract of every network: forecast a reading before it is seen, reading by reading or many at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from gatewatch.models.errors import TrainingError

State = dict[str, Tensor]
"""A stream's state: tensors by name, the batch axis first."""

Shapes = dict[str, tuple[int, ...]]
"""Name and shape, without the batch axis, of each tensor of a state."""

LOG_SCALE_LIMITS = (-5.0, 2.0)


class Forecaster(nn.Module, ABC):
    """A network that unrolls over T readings of B streams, and its head.

    mean = V [top, elapsed] + d + k ∘ last        ln scale = U [top, elapsed] + e

    `top` (B, W) is what the network makes of the readings before. k, one weight a channel, lets a slow channel be
    forecast by its last value (k near 1) and a noisy one by its level (k near 0); a cell with bounded units alone
    cannot carry a value exactly.

    x (B, C) is in standardised units, 0 where missing; observed (B, C) is 1 where there is a value, else 0; elapsed
    (B, 1) is the log of the time since the reading before, in typical intervals.

    Attributes:
        kind: `live`: what it needs of the past is a state, so that a stream can carry it. `recording`: it reads
            finished recordings from both ends.
    """

    kind: ClassVar[Literal["live", "recording"]] = "live"

    def __init__(self, channels: int, width: int) -> None:
        """A head over `width` units."""
        super().__init__()
        self.channels = channels
        self.head = nn.Linear(width + 1, 2 * channels)
        self.keep = nn.Parameter(torch.full((channels,), 0.5))
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()

    @abstractmethod
    def state_shapes(self) -> Shapes:
        """Of what is carried from one reading, or one window of a training, to the next."""

    @abstractmethod
    def unroll(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Forecast T readings: x, observed (T, B, C) and elapsed (T, B, 1) to mean, scale (T, B, C), last state."""

    def remember(self, longest: int) -> None:
        """Begin with gates that keep what they hold for up to `longest` readings; see chrono.

        Raises:
            TrainingError: there is no gate that keeps anything.
        """
        raise TrainingError(f"chrono ({longest}) is for networks whose gates keep what they hold; this one has none")

    def initial(self, batch: int) -> State:
        """The state of B streams that have not seen a reading: zeros."""
        return {name: self.keep.new_zeros(batch, *shape) for name, shape in self.state_shapes().items()}

    def read(self, top: Tensor, last: Tensor, elapsed: Tensor) -> tuple[Tensor, Tensor]:
        """The head: (..., W), (..., C) and (..., 1) to mean and scale, each (..., C)."""
        location, log_scale = torch.split(self.head(torch.cat([top, elapsed], dim=-1)), self.channels, dim=-1)
        return location + self.keep * last, torch.exp(log_scale.clamp(*LOG_SCALE_LIMITS))
