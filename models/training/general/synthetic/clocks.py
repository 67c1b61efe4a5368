"""When the readings of synthetic series are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gatewatch.models.training.general.synthetic.parts import Floats, log_uniform

INTERVALS_S = (1, 2, 5, 10, 30, 60, 60, 120, 300, 300, 300, 600, 600, 900, 900, 1800, 1800, 3600, 3600)
"""Usual ones; those under which the clock of the day shows in a thousand rows come more often."""

DAY_S = 86_400

IRREGULAR, GAPS = 0.25, 0.1
"""Shares of the clocks that jitter, and that skip a stretch now and then."""


@dataclass(frozen=True)
class Clock:
    """When the readings of N series were taken.

    Attributes:
        timestamps_ms: (N, T) Unix time, never falling.
        interval_s: (N,) between two readings, typically.
    """

    timestamps_ms: NDArray[np.int64]
    interval_s: Floats

    def of(self, chosen: NDArray[Any]) -> Clock:
        """The clock of some of the series."""
        return Clock(self.timestamps_ms[chosen], self.interval_s[chosen])

    @property
    def days(self) -> Floats:
        """(N, T) time in days; its fraction is the time of day."""
        return self.timestamps_ms / (1000 * DAY_S)


def draw_clock(rng: Generator, series: int, rows: int, intervals_s: Sequence[int]) -> Clock:
    """Start anywhere within three years; some clocks jitter, and some skip a stretch now and then."""
    interval_s = rng.choice(intervals_s, series).astype(np.float64)
    steps = np.ones((series, rows))
    irregular = np.flatnonzero(rng.random(series) < IRREGULAR)
    jitter = log_uniform(rng, 0.02, 0.7, (len(irregular), 1))
    steps[irregular] = np.exp(jitter * rng.normal(size=(len(irregular), rows)) - jitter**2 / 2)
    gaps = np.flatnonzero(rng.random(series) < GAPS)
    skips = rng.random((len(gaps), rows)) < 0.005
    steps[gaps] += skips * log_uniform(rng, 1, 60, (len(gaps), rows))
    start_s = rng.uniform(1.6e9, 1.7e9, (series, 1)) // interval_s[:, None] * interval_s[:, None]
    elapsed_s = (steps.cumsum(axis=1) - steps[:, :1]) * interval_s[:, None]
    return Clock(((start_s + elapsed_s) * 1000).astype(np.int64), interval_s)
