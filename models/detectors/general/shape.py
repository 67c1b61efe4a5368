"""Cycles that are wrong though each value is usual: a small memory of what windows each channel has shown.

A channel has a unit and an origin of its own, its spread and its value when the memory begins. Means of b readings in
these, blocks, fill a ring (cycles.py); a missing value is the one before. Every SEARCH blocks the period is looked for.
If the ring is full and there is none, or it is more than FINE blocks, pairs of blocks become one: b doubles, up to
2^MOST_FOLDS, and then all begins anew. While there is a period, every COMPARE blocks

    size = min(d / usual d, e / usual e)

of the newest window, so that it ends when what was odd has ended, though the window still holds it. The usual distances
are means of those so far, each taught by at most CLIP times them (contract 12), and at least LEAST_SHARE of the ring's
deviation. Nothing here hangs on a score. A size is not judged while its window holds what other parts judged anomalous,
see score.py: it would be told twice, and for longer. Nor while it holds a gap; a channel that stays away for NEWEST
blocks begins anew.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.general.cycles import NEWEST, RING, WINDOW, in_order, period_of, unlike
from gatewatch.models.detectors.general.features import UNCLIPPED
from gatewatch.models.detectors.operands import ARRAYS, Functions

Float64Array = NDArray[np.float64]
Records = NDArray[Any]

SEARCH, COMPARE, FULL = 32, 3, 4 * RING
"""Blocks between searches, and between windows that are looked at. They are counted up to FULL, and then on from RING:
FULL - RING is a multiple of all three."""

FINE, MOST_FOLDS = 48, 6
STILL_ALIKE, SAME = 0.3, 1.25
"""For a period that there is, within this factor."""

USUAL_WINDOWS, CLIP, SETTLING = 667, 4.0, 21
"""Memory of the usual distances; times them that one teaches; windows before any is judged."""

SPAN = WINDOW + COMPARE
"""Blocks within which all is that a size tells of, until the next window is looked at."""

MOST_SPAN = SPAN << MOST_FOLDS

LEAST_SHARE, LEAST_UNITS = 0.02, 1e-6
BEGIN_READINGS = 64
"""Readings until the unit of a channel is taken."""

AT_ONCE = 64
"""Windows that are looked at together: what they need stays near the core."""

FARTHEST = 6e4
"""Units; float16 goes to 65,504."""

GAP_INTERVALS = 4.0
"""Longer between two readings, and the phase is not what it was."""

LEAST_SIZE = 0.05
"""0 stands for none."""

FIELDS = (
    *("shape_origin", "shape_sum", "shape_unit", "shape", "shape_usual", "shape_blocks", "shape_windows"),
    *("shape_held", "shape_fold", "shape_period", "shape_ring"),
)
"""The fields of `shape_fields`."""


def shape_fields(channels: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """The fields of a stream's state that this module keeps: 679 bytes a channel."""
    return [
        ("shape_origin", "<f8", (channels,)),
        ("shape_sum", "<f8", (channels,)),
        ("shape_unit", "<f4", (channels,)),
        ("shape", "<f4", (channels,)),
        ("shape_usual", "<f4", (channels, 2)),
        ("shape_blocks", "<u2", (channels,)),
        ("shape_windows", "<u2", (channels,)),
        ("shape_held", "u1", (channels,)),
        ("shape_fold", "u1", (channels,)),
        ("shape_period", "u1", (channels,)),
        ("shape_ring", "<f2", (channels, RING)),
    ]


class Shapes(NamedTuple):
    """How wrong the newest windows of B streams are.

    Attributes:
        size: (B, C) 1 is usual; 0 where there is no cycle, or not for long enough.
        span: (B, C) readings that it tells of.
        whole: (B,) whether there is no gap before the reading.
    """

    size: Float64Array
    span: NDArray[np.int64]
    whole: NDArray[np.bool_]


def take_shapes(values: Float64Array, now: Float64Array, elapsed_ms: NDArray[np.int64], states: Records) -> Shapes:
    """Take one reading of each of B streams into what they remember; `states` is changed in place.

    Args:
        values: (B, C) physical units, NaN where missing.
        now: (4, B, C) from `features.placed`.
        elapsed_ms: (B,) since the reading before; negative where the clock tells nothing.
        states: (B,) records with `shape_fields`, and those of other modules before the reading.
    """
    _, _, change, bounded = now
    unit = states["shape_unit"].astype(np.float64)
    missing = np.isnan(values)
    if np.count_nonzero(missing):
        lost = missing & is_lost(unit, states["absent"], states["shape_fold"].astype(np.int64))
        if np.count_nonzero(lost):
            forget(states, lost)
            unit = states["shape_unit"].astype(np.float64)
    if np.count_nonzero(unit) < unit.size:
        first = begins(unit, states["count"], states["moves"], change)
        if np.count_nonzero(first):
            begin(states, first, bounded[first], states["spread"][first])
            unit = states["shape_unit"].astype(np.float64)
    there = unit > 0.0
    if np.count_nonzero(there):
        states["shape_sum"] += there * unit_place(ARRAYS, bounded, states["shape_origin"], np.where(there, unit, 1.0))
        held = states["shape_held"] + there
        states["shape_held"] = held
        ended = held >= np.left_shift(1, states["shape_fold"])
        if np.count_nonzero(ended):
            end_blocks(states, *np.nonzero(ended))
    whole = is_whole(elapsed_ms, states["interval_ms"].astype(np.float64))
    return Shapes(states["shape"].astype(np.float64), np.left_shift(np.int64(SPAN), states["shape_fold"]), whole)


def is_whole(elapsed_ms: Any, interval_ms: Any) -> Any:
    """Whether there is no gap before a reading; arrays (B,), or numbers."""
    return (elapsed_ms >= 0) & (elapsed_ms <= GAP_INTERVALS * interval_ms)


def is_lost(unit: Any, absent: Any, fold: Any) -> Any:
    """Whether a channel that has been missing before a reading, and is now, begins anew; arrays, or numbers."""
    return (unit > 0.0) & (absent + 1 >= NEWEST * 2**fold)


def forget(states: Records, which: Any) -> None:
    """Have channels remember nothing."""
    for name in FIELDS[:-1]:
        states[name][which] = 0


def begins(unit: Any, count: Any, moves: Any, change: Any) -> Any:
    """Whether the memory of channels begins with a reading; arrays, or numbers."""
    return (unit == 0.0) & (count >= BEGIN_READINGS) & (moves > UNCLIPPED) & (change != 0.0)


def unit_place(of: Functions, value: Any, origin: Any, unit: Any) -> Any:
    """Values from the origins of channels in their units; arrays, or numbers."""
    return of.smaller(of.larger((value - origin) / unit, -FARTHEST), FARTHEST)


def block_after(of: Functions, blocks: Any) -> Any:
    """How many blocks there are with one more; arrays, or numbers."""
    return of.where(blocks + 1 == FULL, RING, blocks + 1)


def is_looked_at(period: Any, blocks: Any) -> tuple[Any, Any]:
    """Whether the newest window is looked at when so many blocks are there, and whether a period is looked for; arrays,
    or numbers."""
    return (period > 0) & (blocks % COMPARE == 0) & (blocks >= 2 * WINDOW), blocks % SEARCH == 0


def begin(states: Records, which: Any, values: Any, spreads: Any) -> None:
    """Begin the memories of some channels, by their values and their spreads."""
    forget(states, which)
    states["shape_origin"][which], states["shape_unit"][which] = values, spreads


def end_blocks(states: Records, rows: NDArray[np.intp], channels: NDArray[np.intp]) -> None:
    """Take the blocks of P channels in that a reading has ended; `states` is changed in place."""
    at = rows, channels
    blocks = block_after(ARRAYS, states["shape_blocks"][at])
    states["shape_ring"][rows, channels, (blocks - 1) % RING] = states["shape_sum"][at] / states["shape_held"][at]
    states["shape_blocks"][at], states["shape_sum"][at], states["shape_held"][at] = blocks, 0.0, 0
    look(states, rows, channels, *is_looked_at(states["shape_period"][at], blocks))


def look(
    states: Records,
    rows: NDArray[np.intp],
    channels: NDArray[np.intp],
    looked_at: NDArray[np.bool_],
    searched: NDArray[np.bool_],
) -> None:
    """Look at the newest windows of P channels, and for their periods, where this is due."""
    places = np.flatnonzero(looked_at)
    for start in range(0, len(places), AT_ONCE):
        some = places[start : start + AT_ONCE]
        _compare(states, (rows[some], channels[some]))
    for row, channel in zip(rows[searched].tolist(), channels[searched].tolist(), strict=True):
        _search(states, (row, channel))


def _compare(states: Records, at: tuple[NDArray[np.intp], NDArray[np.intp]]) -> None:
    """Find the sizes of the newest windows of P channels, and learn of them."""
    found, deviation = unlike(states["shape_ring"][at], states["shape_blocks"][at])
    kept = states["shape_usual"][at].astype(np.float64)
    usual = np.maximum(kept, (LEAST_SHARE * deviation + LEAST_UNITS)[:, None])
    windows = np.minimum(states["shape_windows"][at] + 1, USUAL_WINDOWS)
    known = windows > SETTLING
    lesson = np.where(known[:, None], np.minimum(found, CLIP * usual), found)
    states["shape_usual"][at] = kept + (lesson - kept) / windows[:, None]
    states["shape_windows"][at] = windows
    states["shape"][at] = np.maximum(np.minimum.reduce(found / usual, 1), LEAST_SIZE) * known


def _search(states: Records, at: tuple[int, int]) -> None:
    """Look for the period of a channel; without one, or with too many blocks of it, double the readings of a block."""
    blocks, period, fold = (int(states[name][at]) for name in ("shape_blocks", "shape_period", "shape_fold"))
    filled = min(blocks, RING)
    y, found = in_order(states["shape_ring"][at], blocks)[RING - filled :], 0
    if period:
        found = period_of(y, STILL_ALIKE, int(period / SAME), int(period * SAME))
    found = found or period_of(y)
    if (found > FINE or (not found and filled == RING)) and fold < MOST_FOLDS:
        half = filled // 2
        states["shape_ring"][at][:half] = (y[filled % 2 :: 2] + y[filled % 2 + 1 :: 2]) / 2
        states["shape_blocks"][at], states["shape_fold"][at] = half, fold + 1
        found = (found + 1) // 2
        states["shape_windows"][at], states["shape"][at] = 0, 0.0
    elif not found:
        states["shape_windows"][at], states["shape"][at] = 0, 0.0
        if filled == RING:
            forget(states, at)
    states["shape_period"][at] = found
