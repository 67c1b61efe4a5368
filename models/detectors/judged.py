"""What a reading comes to by the score of either model, and what both reckon alike: pools, shares, runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RUN_MARGIN, RUN_ALLOWANCE = 3, 30
"""A channel may stand still, or be absent, three times as long as it ever did, and 30 readings."""

APART_READINGS = 300
"""A channel that stands still, or is absent, for so many readings more has been told, and is set apart: it no longer
counts in its stream's score until it moves or comes back."""


@dataclass(frozen=True)
class Judged:
    """What one reading of each of B streams came to.

    Attributes:
        score: (B,) above 1 where a part is, and then the largest part.
        reason: (B,) the index of the largest part in REASONS.
        attribution: (B, C) the channels' shares in that part; each row sums to 1.
        parts: (B, 4) all parts, in units of their thresholds.
        missed: (B, C) reading minus forecast, in the forecast's units; 0 where missing.
        alone: (B, C) whether a channel by itself, without the others, is enough for a part above 1; None if no stream
            has such a part.
        stops: (B,) whether a channel has just been told to stand still or to be missing; None as `alone`.
        signals: (B, 3) before thresholds: (E' - m)/s, L and V; of the general model see there.
        strange: (5, B, C) by channel: z, o/λ, runs in units of their limits, and how quiet; None of the general model.
    """

    score: Floats
    reason: NDArray[np.intp]
    attribution: Floats
    parts: Floats
    missed: Floats
    alone: NDArray[np.bool_] | None
    stops: NDArray[np.bool_] | None
    signals: Floats
    strange: Floats | None = None


def just_above(runs: Floats, limits: Floats) -> NDArray[np.bool_]:
    """(B,) whether any of (2, B, C) runs went above its limit with this reading."""
    return np.asarray(np.logical_or.reduce((runs > limits) & (runs - 1 <= limits), (0, 2)))


def pool(strangeness: Floats) -> Floats:
    """(..., C) to (...): the fourth root of the sum of fourth powers."""
    powers = np.square(strangeness)
    powers *= powers
    return np.asarray(np.sqrt(np.sqrt(np.add.reduce(powers, -1))))


def shares(strangeness: Floats) -> Floats:
    """(B, C) to shares of the fourth powers, each row summing to 1; equal shares where nothing is strange."""
    largest = np.maximum.reduce(strangeness, 1, keepdims=True)
    if np.count_nonzero(largest) < len(largest):
        strangeness = np.where(largest > 0, strangeness, 1.0)
        largest = np.where(largest > 0, largest, 1.0)
    powers = strangeness / largest
    powers *= powers
    powers *= powers
    powers /= np.add.reduce(powers, 1, keepdims=True)
    return powers


def shares_alone(strangeness: list[float]) -> NDArray[np.float32]:
    """(1, C) `shares` of one stream, in float32."""
    largest = max(strangeness)
    powers = np.array([[each / largest if largest > 0.0 else 1.0 for each in strangeness]])
    powers *= powers
    powers *= powers
    powers /= np.add.reduce(powers, 1)
    return powers.astype(np.float32)
