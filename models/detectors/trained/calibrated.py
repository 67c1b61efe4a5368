"""What is normal for the channels of one trained model, as its score needs it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ACCEPT_LIMIT = 3.0
"""Thresholds that one reading may teach a level's home at most."""


class Numbers(NamedTuple):
    """What `ResidualCalibration` says, in lists of Python numbers (C,); limits of runs (2C,), still and absent."""

    event_scale: list[float]
    usual_miss: list[float]
    level_scale: list[float]
    change_scale: list[float]
    usual_lively: list[float]
    quiet_gain: list[float]
    accept_limit: list[float]
    run_limits: list[float]
    constant: list[bool]


@dataclass(frozen=True)
class ResidualCalibration:
    """What is normal for the channels of one model, learned from normal recordings.

    Attributes:
        event_scale: (C,) r, standardised units.
        usual_miss: (C,) ū, the mean of u.
        level_scale: (C,) λ, standardised units.
        change_scale: (C,) d, physical units.
        usual_lively: (C,) v̄, in change_scale; a stream begins with it.
        quiet_scale: (C,) κ, nats below v̄ that a channel seldom falls; infinite for one that may rest.
        still_limit: (C,) readings without a change that are still normal; infinite for a constant channel.
        absent_limit: (C,) readings without a value that are still normal.
        event_mean, event_variance: m₀ and s₀² of p.
        event_threshold: T_E, in spreads of p.
        level_threshold: T_L.
        lively_scale: T_V, what V seldom exceeds.
        constant: (C,) which never moved in the recordings.
    """

    event_scale: Floats
    usual_miss: Floats
    level_scale: Floats
    change_scale: Floats
    usual_lively: Floats
    quiet_scale: Floats
    still_limit: Floats
    absent_limit: Floats
    event_mean: float
    event_variance: float
    event_threshold: float
    level_threshold: float
    lively_scale: float
    constant: NDArray[np.bool_]

    @cached_property
    def constants(self) -> NDArray[np.intp] | None:
        """Places of the constant channels; None if there is none."""
        found = np.flatnonzero(self.constant)
        return found if len(found) else None

    @cached_property
    def accept_limit(self) -> Floats:
        """(C,) 3 T_L λ."""
        return np.asarray(ACCEPT_LIMIT * self.level_threshold * self.level_scale)

    @cached_property
    def usual_plain(self) -> float:
        """m₀ + 3 s₀."""
        return float(self.event_mean + 3 * np.sqrt(self.event_variance))

    @cached_property
    def quiet_gain(self) -> Floats:
        """(C,) -1/κ."""
        return -1.0 / self.quiet_scale

    @cached_property
    def run_limits(self) -> Floats:
        """(2, 1, C) still and absent limit."""
        return np.stack([self.still_limit, self.absent_limit])[:, None]

    @cached_property
    def numbers(self) -> Numbers | None:
        """The same in numbers; None where one of them is 0, by which Python does not divide."""
        scales = [self.event_scale, self.usual_miss, self.level_scale, self.change_scale, self.usual_lively]
        if not all(map(np.all, scales)) or not self.run_limits.all():
            return None
        others = [self.quiet_gain, self.accept_limit, self.run_limits.ravel(), self.constant]
        return Numbers(*(each.tolist() for each in (*scales, *others)))
