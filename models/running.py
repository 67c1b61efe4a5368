"""What a stream shows of itself while it runs: scales, time of day, and what the general network is shown of it.

Nothing is learned beforehand; each channel is put into units of its own, from its first reading on. After the n-th
value x of a channel, with the value before x' and a = max(1/n, 1/SCALE_READINGS):

    center   m += a clip(x - m, ±4s)
    spread   s += a (1.25 min(|x - m|, 6s) - s)        1.25: from mean absolute to standard deviation (normal)
    step     d += a (min(|x - x'|, 8d) - d)
    reach    ρ = max(ρ, min(|x - m|, 10s))
    recent   e += (x - e) 2/11
    table    τ[bin] += g clip(x - τ[bin], ±10s),  g = max(1/visits, 0.15 · share of the bin that a reading takes)

The clips keep a wild value from teaching (contract 12). The spread is at least SPREAD_FLOOR of the reach and
what float32 can tell of the center; the step at least a fiftieth of the spread. The table has 48 bins of the day and
counts as known once the stream is a day old; where it is not, the last value stands for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Records = NDArray[Any]
Floats = NDArray[np.float32]

HORIZONS = (1, 3, 10, 30)
"""Readings ahead. The mean surprise of four horizons found 3 points more of NAB than that of one (a prototype)."""

FEATURES = 11

SCALE_READINGS = 500.0
UNCLIPPED, FIRST_LESSON = 8, 0.3
"""So many first changes of a channel teach without a clip, and raise a scale to this share of theirs at least: a
channel may have rested for long before."""

OLDEST_READINGS = 1536
"""The length of the series trained on. Told an age of 1e6 readings, which it never saw, the network's errors are 2 to
7 points of the last value's higher."""

SPREAD_FLOOR, RESOLUTION, STEP_FLOOR = 2e-3, 1e-6, 0.02
TINY = 1e-30
"""Least of a scale, so that zeros can be divided by it."""

LARGEST_VALUE = 1e36

RANGE_GROWTH = 3.0
"""A value widens the range by no more than so many times the range."""

RECENT_GAIN = 2 / 11
INTERVAL_READINGS = 100.0

BINS = 48
DAY_MS = 86_400_000
BIN_MS = DAY_MS // BINS
TABLE_GAIN = 0.15


def running_fields(channels: int) -> list[tuple[str, str] | tuple[str, str, tuple[int, ...]]]:
    """The fields of a stream's state that this module keeps: 361 bytes a channel and 20 more."""
    return [
        ("first_ms", "<i8"),
        ("shown_ms", "<i8"),
        ("interval_ms", "<f4"),
        ("count", "<u4", (channels,)),
        ("moves", "u1", (channels,)),
        ("lesson", "<f4", (channels, UNCLIPPED + 1)),
        ("last", "<f4", (channels,)),
        ("center", "<f4", (channels,)),
        ("spread", "<f4", (channels,)),
        ("step", "<f4", (channels,)),
        ("recent", "<f4", (channels,)),
        ("low", "<f4", (channels,)),
        ("high", "<f4", (channels,)),
        ("reach", "<f4", (channels,)),
        ("table", "<f4", (channels, BINS)),
        ("visits", "<u2", (channels, BINS)),
    ]


def bounded(values: NDArray[Any]) -> NDArray[np.float64]:
    """Values within ±LARGEST_VALUE, so that sums of some of them are still a float32."""
    return np.clip(values.astype(np.float64), -LARGEST_VALUE, LARGEST_VALUE)


def seasonal(states: Records, timestamps_ms: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What the time of day lets expect of a reading at `timestamps_ms`, and whether the table knows; each (B, C)."""
    bins = (timestamps_ms % DAY_MS // BIN_MS)[:, None, None]
    entry = np.take_along_axis(states["table"], bins, axis=2)[..., 0].astype(np.float64)
    visited = np.take_along_axis(states["visits"], bins, axis=2)[..., 0] > 0
    known = visited & (timestamps_ms - states["first_ms"] >= DAY_MS)[:, None]
    return np.where(known, entry, states["last"]), known


def observe(states: Records, values: NDArray[Any], timestamps_ms: NDArray[np.int64]) -> Floats:
    """Take one reading of each of B streams in; `states` is changed in place.

    Args:
        states: (B,) records with `running_fields`; zeros for a new stream.
        values: (B, C) physical units, NaN where missing.
        timestamps_ms: (B,) Unix time.

    Returns:
        (B, C, FEATURES) what the general network is shown: the value and its change in the stream's units, how
        lively it is, how far from its recent mean and from what the time of day lets expect next, the time of day,
        and how long the stream is known.
    """
    observed = np.isfinite(values)
    x = bounded(np.where(observed, values, states["last"]))
    fresh = (states["count"] == 0).any(axis=1) & ~states["first_ms"].astype(bool)
    _take_time(states, timestamps_ms, fresh)
    started = states["count"] > 0
    before = np.where(started, states["last"], x)
    difference = x - before
    _take_values(states, x, difference, observed, started)
    _take_time_of_day(states, x, observed, timestamps_ms)

    spread, step = (np.maximum(states[name].astype(np.float64), TINY) for name in ("spread", "step"))
    ahead = timestamps_ms + np.maximum(states["interval_ms"], 0).astype(np.int64)
    expected, known = seasonal(states, ahead)
    angle = (2 * np.pi / DAY_MS) * (timestamps_ms % DAY_MS)[:, None]
    features = np.empty((*values.shape, FEATURES), np.float32)
    features[..., 0] = np.arcsinh((x - states["center"]) / spread)
    features[..., 1] = np.arcsinh(difference / step)
    features[..., 2] = np.log(step / spread)
    features[..., 3] = np.arcsinh((x - states["recent"]) / step)
    features[..., 4] = np.arcsinh((expected - x) / spread)
    features[..., 5] = np.arcsinh((expected - x) / step) * 0.2
    features[..., 6] = known
    features[..., 7] = np.sin(angle)
    features[..., 8] = np.cos(angle)
    features[..., 9] = ~observed
    features[..., 10] = np.log(np.minimum(states["count"], OLDEST_READINGS) + 1.0) / 7
    return features


def _take_time(states: Records, timestamps_ms: NDArray[np.int64], fresh: NDArray[np.bool_]) -> None:
    """First and last time, and the typical interval: a mean over some 100 readings that a gap does not lengthen."""
    delta = np.where(fresh, 0, timestamps_ms - states["shown_ms"]).astype(np.float64)
    states["first_ms"] = np.where(fresh, timestamps_ms, states["first_ms"])
    states["shown_ms"] = timestamps_ms
    interval = states["interval_ms"].astype(np.float64)
    limited = np.where(interval > 0, np.minimum(delta, 4 * interval), delta)
    gain = 1 / np.minimum(states["count"].max(axis=1) + 1.0, INTERVAL_READINGS)
    forward = delta > 0
    first = forward & (interval == 0)
    states["interval_ms"] = np.where(first, delta, interval + forward * gain * (limited - interval))


def _take_values(
    states: Records,
    x: NDArray[np.float64],
    difference: NDArray[np.float64],
    observed: NDArray[np.bool_],
    started: NDArray[np.bool_],
) -> None:
    """The running scales, as the module's text has them; what is not observed changes nothing."""
    count = states["count"] + observed
    states["count"] = count
    gain = observed / np.maximum(np.minimum(count, SCALE_READINGS), 1.0)
    center = np.where(started, states["center"], x)
    spread, step = states["spread"].astype(np.float64), states["step"].astype(np.float64)
    moves = states["moves"]
    moves += observed & (difference != 0) & (moves <= UNCLIPPED)
    first = moves <= UNCLIPPED
    unclipped = np.where(first, np.inf, 1.0)
    _keep_lesson(states, x, observed & first)
    learned = observed & (difference != 0) & (moves == UNCLIPPED)
    with np.errstate(invalid="ignore"):  # 0 * inf, where a scale is still 0
        wide, wider, widest, far = (
            np.nan_to_num(k * s * unclipped, nan=np.inf) for k, s in ((4, spread), (6, spread), (10, spread), (8, step))
        )
    low, high = (np.where(started, states[name], x).astype(np.float64) for name in ("low", "high"))
    wild = np.where(first, np.inf, RANGE_GROWTH * np.maximum(high - low, spread))
    low -= np.clip(low - x, 0.0, wild)
    high += np.clip(x - high, 0.0, wild)
    reach = np.maximum(states["reach"], np.minimum(np.abs(x - center), widest))
    away = x - center
    center = center + gain * np.clip(away, -wide, wide)
    spread = spread + gain * (1.25 * np.minimum(np.abs(away), wider) - spread)
    step = step + gain * (np.minimum(np.abs(difference), far) - step)
    spread = np.maximum(spread, FIRST_LESSON * np.abs(away) * (first & observed))
    step = np.maximum(step, FIRST_LESSON * np.abs(difference) * (first & observed))
    spread = np.maximum(spread, SPREAD_FLOOR * reach + RESOLUTION * np.abs(center) + TINY)
    step = np.maximum(step, STEP_FLOOR * spread)
    recent = np.where(started, states["recent"], x)
    recent = recent + observed * RECENT_GAIN * (x - recent)
    for name, value in (
        ("low", low),
        ("high", high),
        ("reach", reach),
        ("center", center),
        ("spread", spread),
        ("step", step),
        ("recent", recent),
        ("last", x),
    ):
        states[name] = np.where(observed | started, value, states[name])
    if learned.any():
        _heal(states, learned)


def _keep_lesson(states: Records, x: NDArray[np.float64], learning: NDArray[np.bool_]) -> None:
    """Note the first values of a channel that differ from the one before."""
    rows, channels = np.nonzero(learning)
    states["lesson"][rows, channels, states["moves"][rows, channels]] = x[rows, channels]


def _heal(states: Records, learned: NDArray[np.bool_]) -> None:
    """At the end of the first lesson, take out of the scales what a wild value among the first taught them.

    No scale may be more than some times what the median of those values tells; a garbage value at the start would
    else blind the channel for thousands of readings. Nothing is done where most of the values are one.
    """
    lesson = states["lesson"].astype(np.float64)
    median = np.median(lesson, axis=2)
    deviation = 1.5 * np.median(np.abs(lesson - median[..., None]), axis=2)
    at = np.nonzero(learned & (deviation > 0))
    middle, scale, change = median[at], deviation[at], np.median(np.abs(np.diff(lesson[at], axis=1)), axis=1)
    for name, most in (("spread", 3 * scale), ("step", 3 * change), ("reach", 10 * scale)):
        states[name][at] = np.minimum(states[name][at], most)
    for name in ("center", "recent", "low", "high"):
        states[name][at] = np.clip(states[name][at], middle - 10 * scale, middle + 10 * scale)
    table = states["table"][at]
    states["table"][at] = np.clip(table, (middle - 10 * scale)[:, None], (middle + 10 * scale)[:, None])


def _take_time_of_day(
    states: Records, x: NDArray[np.float64], observed: NDArray[np.bool_], timestamps_ms: NDArray[np.int64]
) -> None:
    rows = np.arange(len(states))
    bins = timestamps_ms % DAY_MS // BIN_MS
    table, visits = states["table"], states["visits"]
    entry, visited = table[rows, :, bins].astype(np.float64), visits[rows, :, bins]
    visited = visited + (observed & (visited < np.iinfo(np.uint16).max))
    share = np.minimum(states["interval_ms"].astype(np.float64) / BIN_MS, 1.0)[:, None]
    gain = np.maximum(1 / np.maximum(visited, 1), TABLE_GAIN * share)
    wide = np.where(states["moves"] > UNCLIPPED, 10 * states["spread"].astype(np.float64), np.inf)
    entry = np.where(visited > 1, entry, states["center"])
    table[rows, :, bins] = entry + observed * gain * np.clip(x - entry, -wide, wide)
    visits[rows, :, bins] = visited
