"""How far forecasts and the time of day miss a reading, in units of what is usual; and how surprising that is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.general.features import (
    HORIZONS,
    RESOLUTION,
    SPREAD_FLOOR,
    STEP_FLOOR,
    TINY,
    UNCLIPPED,
    Seasonal,
)

Float64Array = NDArray[np.float64]
Records = NDArray[Any]

EVENT_GAIN = 1 / 3

LARGEST_LESSON = 20.0
"""Times the mean miss; a miss farther off teaches no more than that (contract 12)."""

LARGEST_MISS = 1e5
"""Times the mean miss; farther off is not stranger: a channel that never moved has no mean miss to speak of."""

TABLE_READINGS = 500.0
"""Memory of the mean miss of the time-of-day table, which keeps learning; that of forecasts never forgets."""

_SEASONAL = len(HORIZONS)
_MEMORY = np.array([np.inf] * _SEASONAL + [TABLE_READINGS])


def nats_of(z: Float64Array) -> Float64Array:
    """-ln P(|t₃| > z), Student's t with 3 degrees of freedom; the series where the closed form cancels."""
    y = np.sqrt(3) / np.maximum(z, 1e-9)
    tail = np.arctan(y) - y / (1 + y * y)
    small = y < 1e-2
    if np.count_nonzero(small):
        tail = np.where(small, y**3 * (2 / 3), tail)
    return np.asarray(-np.log(np.maximum(tail * (2 / np.pi), 1e-300)))


def miss_for(nats: float) -> float:
    """The z with s(z) = nats: how many mean misses off is as rare as that; by bisection."""
    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if nats_of(np.array([middle]))[0] < nats else (low, middle)
    return high


def usual_miss(states: Records) -> Float64Array:
    """(B, C) S of the forecast one reading ahead."""
    return np.asarray(np.maximum(states["miss"][..., 0], _least_miss(states)))


def _least_miss(states: Records) -> Float64Array:
    """(B, C) what a miss is at least taken for: small shares of the reach, of the step, of the value itself."""
    reach = states["reach"].astype(np.float64)
    return np.asarray(
        np.maximum(SPREAD_FLOOR * reach, STEP_FLOOR * states["step"]) + RESOLUTION * np.abs(states["origin"]) + TINY
    )


def errors_of(
    x: Float64Array, due: Float64Array, seasonal: Seasonal, observed: NDArray[np.bool_]
) -> tuple[Float64Array, NDArray[np.bool_], NDArray[np.bool_]]:
    """(B, C, 5) each: how far forecasts and time of day missed, whether there was one, and whether `miss` learns it.

    The misses of the table are kept by models.detectors.general.features.
    """
    expected = np.empty((*x.shape, _SEASONAL + 1))
    expected[..., :_SEASONAL], expected[..., _SEASONAL] = due, seasonal.place
    told = np.isfinite(expected)
    told &= observed[..., None]
    error = np.abs(x[..., None] - expected)
    np.copyto(error, 0.0, where=~told)
    taught = told.copy()
    taught[..., _SEASONAL] &= ~seasonal.known
    return error, told, taught


def miss_lessons(
    error: Float64Array, taught: NDArray[np.bool_], seasonal: Seasonal, states: Records
) -> tuple[NDArray[Any], ...]:
    """What `misses_after` takes, of one reading of each of B streams."""
    memory = np.minimum(np.maximum(states["misses"] + taught, 1.0), _MEMORY)
    most = np.where(states["moves"] > UNCLIPPED, LARGEST_LESSON, np.inf)[..., None]
    return error, taught, memory, _least_miss(states)[..., None], most, seasonal.known, seasonal.off


def misses_after(
    mean: Float64Array,
    error: Float64Array,
    taught: NDArray[np.bool_],
    memory: Float64Array,
    least: Float64Array,
    most: Float64Array,
    by_table: NDArray[np.bool_],
    off_by_table: NDArray[Any],
) -> tuple[Float64Array, Float64Array]:
    """(..., C, 5) S after a reading, and before it, as misses are measured by it.

    Args:
        memory: of how many misses S is the mean.
        least: (..., C, 1) what a miss is at least taken for.
        most: (..., C, 1) times S that a miss teaches.
        by_table, off_by_table: (..., C) where the table knows the time of day, its own mean miss stands for the last S.
    """
    usual = mean.copy()
    np.copyto(usual[..., _SEASONAL], off_by_table, where=by_table)
    usual = np.maximum(usual, least)
    return mean + taught * (np.minimum(error, most * usual) - mean) / memory, usual


def surprises(
    error: Float64Array, known: NDArray[np.bool_], usual: Float64Array, leap: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """(B, C) each: u, and by how many mean misses readings are off both the forecast one ahead and the last value.

    Args:
        error, known, usual: (B, C, 5) misses, whether something is known of them, and S.
        leap: (B, C) sizes of changes.
    """
    off = np.minimum(error / usual, LARGEST_MISS)
    nats = nats_of(off) * known
    jump = np.minimum(off[..., 0], leap / usual[..., 0]) * known[..., 0]
    u = np.add.reduce(nats[..., :_SEASONAL], 2)
    u /= np.maximum(np.add.reduce(known[..., :_SEASONAL], 2, np.intp), 1)
    u += nats[..., _SEASONAL]
    u /= 2
    return u, jump


def surprise_after(surprise: Any, u: Any, observed: Any) -> Any:
    """a' after a reading; arrays (..., C), or numbers."""
    return surprise + EVENT_GAIN * (u - surprise) * observed


def healed(miss: Float64Array, states: Records) -> Float64Array:
    """At the end of a channel's first lesson no miss counts for more than ten steps, as running heals the scales."""
    learned = states["moves"] == UNCLIPPED
    if not np.count_nonzero(learned):
        return miss
    return np.where(learned[..., None], np.minimum(miss, 10 * states["step"].astype(np.float64)[..., None]), miss)
