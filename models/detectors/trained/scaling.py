"""Physical units to standardised units and back, per channel; seconds to the network's elapsed time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.recordings.recording import Source, pieces

Floats = NDArray[np.float32]

STANDARDISED_LIMIT = 10.0
"""Largest standardised value the network is shown, so that an outlier cannot drag its state along (contract 12)."""

ELAPSED_LIMITS = (-4.0, 8.0)
"""Bounds of log(seconds / typical interval): from 1/55 of the interval to 3,000 intervals."""


@dataclass(frozen=True)
class Scaling:
    """Where each channel lies and how far it spreads, in physical units, learned from normal recordings.

    Attributes:
        center: (C,) mean of each channel.
        spread: (C,) standard deviation, above 0 also of a constant channel.
        interval_s: the typical time between two readings, the median over the recordings, in seconds.
    """

    center: NDArray[np.float64]
    spread: NDArray[np.float64]
    interval_s: float

    @classmethod
    def fit(cls, recordings: Sequence[Source]) -> Scaling:
        """Learn the scaling of recordings that share their channels, passing over them three times.

        A constant channel gets a thousandth of its value for a spread; one that is always 0, or never there, has no
        unit to go by and gets 1.
        """
        count, total, squares = (np.zeros(len(recordings[0].channels)) for _ in range(3))
        low, high = np.full_like(count, np.inf), np.full_like(count, -np.inf)
        for values in _values(recordings):
            count += np.isfinite(values).sum(axis=0)
            low, high = np.fmin(low, np.fmin.reduce(values)), np.fmax(high, np.fmax.reduce(values))
        first = np.where(count > 0, low, 0.0)  # what is summed lies near 0, so that a large offset costs no digits
        for values in _values(recordings):
            total += np.nansum(values - first, axis=0)
        mean = total / np.maximum(count, 1)
        for values in _values(recordings):
            squares += np.nansum((values - first - mean) ** 2, axis=0)
        center, moves = first + mean, high > low
        constant = np.where(center == 0.0, 1.0, 1e-3 * np.abs(center))
        return cls(
            np.where(moves, center, first),
            np.where(moves, np.sqrt(squares / np.maximum(count, 1)), constant),
            typical_interval_ms(recordings) / 1000,
        )

    def standardise(self, values: NDArray[Any]) -> Floats:
        """(..., C) physical units to standardised units within ±STANDARDISED_LIMIT; NaN (missing) stays NaN."""
        return shown(self.deviation(values))

    def deviation(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """(..., C) physical units to standardised units without the bound: what is judged, not what is learned."""
        return np.asarray((values - self.center) / self.spread)

    def restore(self, standardised: NDArray[Any]) -> NDArray[np.float64]:
        """(..., C) standardised units back to physical units."""
        return np.asarray(standardised * self.spread + self.center)

    def elapsed(self, delta_ms: NDArray[np.int64]) -> Floats:
        """Milliseconds since the reading before to the network's input, log(delta / interval) within ELAPSED_LIMITS.

        Zero and negative differences (a clock that stands still or steps back) count as the shortest time.
        """
        least, most = ELAPSED_LIMITS
        ratio = np.maximum(delta_ms, 1) / (1000.0 * self.interval_s)
        return np.minimum(np.maximum(np.log(ratio), least), most).astype(np.float32)


def _values(recordings: Sequence[Source]) -> Iterator[NDArray[np.float64]]:
    return (piece.values.astype(np.float64, order="C") for recording in recordings for piece in pieces(recording))


def typical_interval_ms(recordings: Sequence[Source]) -> float:
    """The median time from one reading to the next, of those that lie apart; 1000 where none do."""
    counts: Counter[int] = Counter()
    for recording in recordings:
        last = None
        for piece in pieces(recording):
            times = piece.timestamps_ms
            steps, often = np.unique(np.diff(times, prepend=times[:1] if last is None else last), return_counts=True)
            counts.update(dict(zip(steps.tolist(), often.tolist(), strict=True)))
            last = times[-1:]
    steps = np.array(sorted(step for step in counts if step > 0))
    if not len(steps):
        return 1000.0
    passed = np.cumsum([counts[step] for step in steps.tolist()])
    middle = np.searchsorted(passed, [(passed[-1] - 1) // 2, passed[-1] // 2], side="right")
    return float(steps[middle].mean())


def shown(deviation: NDArray[np.float64]) -> Floats:
    """Standardised units within ±STANDARDISED_LIMIT: what the network is shown of a deviation."""
    return np.minimum(np.maximum(deviation, -STANDARDISED_LIMIT), STANDARDISED_LIMIT).astype(np.float32)
