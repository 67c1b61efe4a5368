"""Bootstrap: figures of weighted parts, drawn as often as there are parts (Efron 1979), and the middle 95 % of them.

A figure is worked out for R sets of weights of K parts at once; the first set has every part once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEAST_PARTS = 5
"""With fewer streams or blocks a bootstrap would claim more than so few can show."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A figure and the middle 95 % of its bootstrap; NaN where there is none."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Floats) -> Figure:
        """From its values for each set of weights (R,)."""
        drawn = values[1:][np.isfinite(values[1:])]
        low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
        return cls(float(values[0]), float(low), float(high))


def draws(parts: int) -> Floats:
    """(1 + RESAMPLES, K) weights: every part once, then as a bootstrap draws them; (1, K) of too few parts."""
    if parts < LEAST_PARTS:
        return np.ones((1, parts))
    drawn = np.random.default_rng(0).multinomial(parts, np.full(parts, 1 / parts), RESAMPLES)
    return np.concatenate([np.ones((1, parts)), drawn])


def weighted_mean(values: Floats, weights: Floats) -> Floats:
    """(R,) the mean of (K,) values, those that are NaN left out."""
    there = np.isfinite(values)
    return ratio(weights[:, there] @ values[there], weights[:, there].sum(axis=1))


def weighted_median(values: Floats, weights: Floats) -> Floats:
    """(R,) the median of (E,) values for weights (R, E); the lower one of two in the middle; NaN of none."""
    if not len(values):
        return np.full(len(weights), np.nan)
    order = np.argsort(values)
    reached = weights[:, order].cumsum(axis=1)
    middle = (reached >= reached[:, -1:] / 2).argmax(axis=1)
    return np.where(reached[:, -1] > 0, values[order][middle], np.nan)


def ratio(part: Floats, whole: Floats) -> Floats:
    """(R,) NaN where nothing is divided by nothing."""
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)
