"""How long a channel has stood still or been missing, and how far it is outside of its range so far."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.general.features import UNCLIPPED
from gatewatch.models.detectors.general.youth import BEHIND
from gatewatch.models.detectors.judged import APART_READINGS, RUN_ALLOWANCE, RUN_MARGIN, just_above
from gatewatch.models.detectors.operands import ARRAYS, Functions
from gatewatch.models.record_fields import load, store

Float64Array = NDArray[np.float64]
Records = NDArray[Any]

RANGE_MARGIN, RANGE_SLOPE, RANGE_READINGS = 0.02, 10.0, 200.0

MOST_OF_RUNS = 2.0
"""A channel that is dead gets no stranger than this, so that what happens to the others can still be told."""


def take_runs(
    change: Float64Array, observed: NDArray[np.bool_], states: Records
) -> tuple[Float64Array, NDArray[np.bool_] | None]:
    """(2, B, C) how long each channel has stood still and been missing, in units of what is usual for it, and (B,)
    whether one has just gone beyond that; None if none is."""
    kept = load(states, "still", 5)
    limits = _run_limits(kept[2:4], states)
    kept = np.array(runs_after(ARRAYS, kept, *run_lessons(change, observed, states["count"] > 0)))
    store(states, "still", kept)
    runs = kept[:2]
    strange = runs / limits
    strange *= runs <= limits + APART_READINGS
    strange[0] *= states["moves"] > UNCLIPPED  # with fewer changes a channel has no usual length of standing still
    strange[1] *= states["count"] > UNCLIPPED
    np.minimum(strange, MOST_OF_RUNS, out=strange)
    return strange, just_above(runs * (strange > 0.0), limits) if np.count_nonzero(strange >= 1.0) else None


def run_lessons(
    change: Float64Array, observed: NDArray[np.bool_], started: NDArray[np.bool_]
) -> tuple[NDArray[Any], ...]:
    """What `runs_after` takes, of readings of channels (B, C), some of which had values before."""
    same, there = change == 0.0, observed & started
    return (*(each.astype(np.float64) for each in (there & same, there & ~same, observed)), started)


def runs_after(
    of: Functions, kept: Any, same: Any, moved: Any, observed: Any, started: Any
) -> tuple[Any, Any, Any, Any, Any]:
    """The fields from `still` on after a reading; arrays (..., C), or numbers."""
    still, absent, longest_still, longest_absent, changes = kept
    larger = of.larger
    longest_still = larger(longest_still, still * moved)
    if of.every(started | (absent <= BEHIND)):
        longest_absent = larger(longest_absent, absent * observed)
    else:  # before its first value a channel was not there yet
        longest_absent = larger(longest_absent, absent * observed * (started | (absent <= BEHIND)))
    still, absent = still + same, absent + 1
    return still - still * moved, absent - absent * observed, longest_still, longest_absent, changes + moved


def _run_limits(longest: Float64Array, states: Records) -> Float64Array:
    """(2, B, C) the most readings that each channel may stand still and be missing, by the longest so far."""
    limits = RUN_MARGIN * longest
    channels = longest.shape[2]
    if channels > 1:
        rests = 1.0 - states["changes"] / np.maximum(states["count"], 1)
        limits[0] *= channels**rests
    limits += RUN_ALLOWANCE
    return np.asarray(limits)


def set_apart(states: Records) -> NDArray[np.bool_]:
    """(B, C) channels that have stood still, or been absent, for so long that they no longer count."""
    runs, longest = load(states, "still", 4).reshape(2, 2, *states["still"].shape)
    apart = runs > _run_limits(longest, states) + APART_READINGS
    return np.asarray((apart[0] & (states["moves"] > UNCLIPPED)) | (apart[1] & (states["count"] > UNCLIPPED)))


def outside_range(
    x: Float64Array, told: NDArray[np.bool_], states: Records, readings: NDArray[np.integer[Any]]
) -> tuple[Float64Array, Float64Array]:
    """(B, C) nats of having left the range so far, and by which share of it.

    Args:
        readings: (B, C) or (B, 1) that each channel is known for.
    """
    low, high = load(states, "low", 2)
    wide = high - low
    excess = np.maximum(x - high, low - x) / np.maximum(wide, 1e-30)
    outside = told & (wide > 0) & (excess > RANGE_MARGIN)
    if not np.count_nonzero(outside):
        nothing = np.zeros(x.shape)
        return nothing, nothing
    slope = RANGE_SLOPE * (readings / (readings + RANGE_READINGS))
    nats = range_nats(ARRAYS, excess, states["count"], x.shape[1], slope)
    return np.where(outside, nats, 0.0), np.where(outside, excess, 0.0)


def range_nats(of: Functions, excess: Any, count: Any, channels: int, slope: Any) -> Any:
    """Nats of being outside of a range of so many readings by shares ε of it; arrays (B, C), or numbers."""
    return of.larger(of.log(of.larger(count / (2.0 * channels), 1e-9)) + slope * of.smaller(excess, 10.0), 0.0)
