"""What a stream shows of itself while it runs: scales, time of day, and what the general network is shown of it.

Nothing is learned beforehand; each channel is put into units of its own, from its first reading on. After the n-th
value x of a channel, with the value before x' and a = max(1/n, 1/SCALE_READINGS):

    center   m += a clip(x - m, ±4s)
    spread   s += a (1.25 min(|x - m|, 6s) - s)        1.25: from mean absolute to standard deviation (normal)
    step     d += a (min(|x - x'|, 8d) - d)
    reach    ρ = max(ρ, min(|x - m|, 10s))
    recent   e += (x - e) 2/11
    table    τ[bin] += g clip(x - τ[bin], ±10s),  g = max(1/visits, 0.15 · share of the bin that a reading takes)

Differences are taken in float64, and places are kept in float32 as distances from an origin near the center, so that a
large offset hides no change (contract 21). The origin is the first value, at the end of the first lesson the median of
that, and moves on with a center that has gone far.

The clips keep a wild value from teaching (contract 12). The spread is at least SPREAD_FLOOR of the reach and
what float64 can tell of the values; the step at least a fiftieth of the spread.

The table has 48 bins of the day, for working days and for weekends, so that a fleet begun together is not surprised
together by its second Saturday, nor by the Monday after it. From its second day on either is held against what comes,
and counts as known when it has been tried 48 times. Where it is not known, the last value stands for it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.operands import ARRAYS, Functions, operands
from gatewatch.models.record_fields import load, store

Records = NDArray[Any]
Float64Array = NDArray[np.float64]

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

SPREAD_FLOOR, STEP_FLOOR = 2e-3, 0.02
RESOLUTION = 4 * float(np.finfo(np.float64).eps)
"""Of a value: what differs by less is the same, rounded otherwise."""
TINY = 1e-37
"""Least of a scale, so that zeros can be divided by it."""

LARGEST_VALUE = 1e36

FAR = 64.0
"""Spreads between center and origin from which on the origin moves: float32 then still tells a 100,000th of them."""

PLACES = ("center", "recent", "low", "high", "table", "level", "home", "ahead")
"""Fields that are distances from the origin, of this module and of those that build on it."""

RANGE_GROWTH = 3.0
"""A value widens the range by no more than so many times the range."""

RECENT_GAIN = 2 / 11
INTERVAL_READINGS = 100.0

BINS = 48
DAY_MS = 86_400_000
BIN_MS = DAY_MS // BINS
TABLE_GAIN = 0.15
TRIED_READINGS = 2000
"""Memory of the mean miss of the table: a week and more of a reading in five minutes."""

DAYS = 2
"""Kinds of days: of work, and of a weekend."""

MONDAY, SATURDAY = 3, 5
"""What is added to days since 1970 to count from a Monday, and the first day of a weekend."""

DAYS_BACK = np.array([3, 1, 1, 1, 1, 6, 1])
"""From each day of the week back to one of its kind: a table is held only against later days than it began with."""

MOST_VISITS = np.iinfo(np.uint16).max

CENTER, SPREAD, STEP, RECENT, LOW, HIGH, REACH = range(7)
SCALES = 7
"""The fields from `center` on, as `record_fields.load` gives them."""


def running_fields(channels: int) -> list[tuple[str, str] | tuple[str, str, tuple[int, ...]]]:
    """The fields of a stream's state that this module keeps: 709 bytes a channel and 12 more.

    `table`, `visits`, `table_miss` and `tried` are of working days and of weekends.
    """
    return [
        ("first_ms", "<i8"),
        ("interval_ms", "<f4"),
        ("count", "<u4", (channels,)),
        ("moves", "u1", (channels,)),
        ("lesson", "<f8", (channels, UNCLIPPED + 1)),
        ("last", "<f8", (channels,)),
        ("origin", "<f8", (channels,)),
        ("center", "<f4", (channels,)),
        ("spread", "<f4", (channels,)),
        ("step", "<f4", (channels,)),
        ("recent", "<f4", (channels,)),
        ("low", "<f4", (channels,)),
        ("high", "<f4", (channels,)),
        ("reach", "<f4", (channels,)),
        ("table", "<f4", (channels, DAYS, BINS)),
        ("visits", "<u2", (channels, DAYS, BINS)),
        ("table_miss", "<f4", (channels, DAYS)),
        ("tried", "<u2", (channels, DAYS)),
    ]


def bounded(values: NDArray[Any]) -> Float64Array:
    """Values within ±LARGEST_VALUE, so that sums of some of them are still a float32."""
    return np.minimum(np.maximum(values.astype(np.float64), -LARGEST_VALUE), LARGEST_VALUE)


def placed(states: Records, values: Float64Array) -> Float64Array:
    """(4, B, C) of values in physical units: their place and that of the values before, from the origins; the change;
    the values, bounded.

    A missing value is taken for the one before. Where no value came before, the place is that of the center.
    """
    last, origin = load(states, "last", 2)
    observed = np.isfinite(values)
    x = bounded(values if np.count_nonzero(observed) == observed.size else np.where(observed, values, last))
    now = np.empty((4, *values.shape))
    np.subtract(x, origin, out=now[0])
    np.subtract(last, origin, out=now[1])
    np.subtract(x, last, out=now[2])
    now[3] = x
    unseen = states["count"] == 0
    if np.count_nonzero(unseen):
        np.copyto(now[:3], 0.0, where=unseen)
    return now


def move_origins(states: Records, at: tuple[NDArray[np.intp], ...], to: Float64Array) -> None:
    """Put the origins of some channels at other values; what is kept as a distance from them stays where it is."""
    by = states["origin"][at] - to
    states["origin"][at] = to
    for name in set(PLACES).intersection(states.dtype.names or ()):
        places = states[name][at]
        states[name][at] = places + by.reshape(-1, *[1] * (places.ndim - 1))


class Times(NamedTuple):
    """When readings of B streams are, in days and in the table: arrays (B,), or numbers of one stream.

    Attributes:
        weekday: 0 on a Monday.
        bin: indices of the entries (B, C) of a table (B, C, DAYS, BINS); views of those of one stream.
        day: the same of a table (B, C, DAYS).
    """

    weekday: Any
    bin: tuple[Any, ...]
    day: tuple[Any, ...]


def times_of(timestamps_ms: NDArray[np.int64]) -> Times:
    now_ms: Any = timestamps_ms
    rows: Any = slice(None)
    if len(timestamps_ms) == 1:
        now_ms = timestamps_ms.item()
    else:
        rows = np.arange(len(timestamps_ms))
    weekday = (now_ms // DAY_MS + MONDAY) % 7
    day = (weekday >= SATURDAY) * 1
    return Times(weekday, (rows, slice(None), day, now_ms % DAY_MS // BIN_MS), (rows, slice(None), day))


class Seasonal(NamedTuple):
    """What the time of day lets expect of a reading, (B, C) each.

    Attributes:
        place: from the origins; that of the last value where the table does not know.
        known: whether it does.
        off: how far the table is usually off.
    """

    place: Float64Array
    known: NDArray[np.bool_]
    off: NDArray[np.float32]


def seasonal(states: Records, before: Float64Array, timestamps_ms: NDArray[np.int64]) -> Seasonal:
    """What is expected of readings at `timestamps_ms` (B,), after values at the places `before` (B, C)."""
    at = times_of(timestamps_ms)
    known = states["tried"][at.day] >= BINS
    if np.count_nonzero(known):
        known &= states["visits"][at.bin] > 0
        before = np.where(known, states["table"][at.bin], before)
    return Seasonal(before, known, states["table_miss"][at.day])


def observe(
    states: Records,
    values: Float64Array,
    now: Float64Array,
    timestamps_ms: NDArray[np.int64],
    elapsed_ms: NDArray[np.int64],
    of_life: Float64Array | None = None,
) -> NDArray[np.float32]:
    """Take one reading of each of B streams in; `states` is changed in place.

    Args:
        states: (B,) records with `running_fields`; zeros for a new stream.
        values: (B, C) physical units, NaN where missing.
        now: (4, B, C) from `placed`.
        timestamps_ms: (B,) Unix time.
        elapsed_ms: (B,) since the reading before; negative where the clock tells nothing.
        of_life: (B, C) of its stream's life that each channel is known for; None where all are for all of it.

    Returns:
        (B, C, FEATURES) what the general network is shown: the value and its change in the stream's units, how
        lively it is, how far from its recent mean and from what the time of day lets expect next, the time of day,
        and how long the stream is known.
    """
    observed = np.isfinite(values)
    started = states["count"] > 0
    if np.count_nonzero(started) < started.size:
        fresh = ~np.logical_and.reduce(started, 1) & (states["first_ms"] == 0)
        states["first_ms"][fresh] = timestamps_ms[fresh]
    take_interval(states, elapsed_ms)
    x, scales, count = take_values(states, now, observed, started)
    _take_time_of_day(states, scales, x, observed, timestamps_ms, of_life)

    ahead = timestamps_ms + np.maximum(states["interval_ms"], 0).astype(np.int64)
    expected, known, _ = seasonal(states, x, ahead)
    return shown(x, now[2], scales, expected, known, timestamps_ms, observed, count)


def shown(
    x: Float64Array,
    change: Float64Array,
    scales: Any,
    expected: Float64Array,
    known: NDArray[np.bool_],
    timestamps_ms: NDArray[np.int64],
    observed: NDArray[np.bool_],
    count: NDArray[Any],
) -> NDArray[np.float32]:
    """What the general network is shown of B readings, (B, C, FEATURES), once they are taken in.

    Args:
        x, change: (B, C) places from the origins, and changes.
        scales: (SCALES, B, C), after the readings.
        expected, known: (B, C) what the time of day lets expect next, and whether it knows.
        timestamps_ms: (B,) Unix time.
        observed: (B, C) whether there is a value.
        count: (B, C) readings of each channel.
    """
    spread, step = np.maximum(scales[SPREAD : STEP + 1], TINY)
    offsets = np.empty((5, *x.shape))  # in spreads: value, expected next; in steps: expected next, change, recent
    np.subtract(x, scales[CENTER], out=offsets[0])
    np.subtract(expected, x, out=offsets[1])
    offsets[2], offsets[3] = offsets[1], change
    np.subtract(x, scales[RECENT], out=offsets[4])
    offsets[:2] /= spread
    offsets[2:] /= step
    np.arcsinh(offsets, out=offsets)
    angle = (2 * np.pi / DAY_MS) * (timestamps_ms % DAY_MS)[:, None]
    features = np.empty((*x.shape, FEATURES), np.float32)
    features[..., 0] = offsets[0]
    features[..., 1] = offsets[3]
    features[..., 2] = np.log(step / spread)
    features[..., 3] = offsets[4]
    features[..., 4] = offsets[1]
    features[..., 5] = offsets[2] * 0.2
    features[..., 6] = known
    features[..., 7] = np.sin(angle)
    features[..., 8] = np.cos(angle)
    features[..., 9] = ~observed
    features[..., 10] = np.log(np.minimum(count, OLDEST_READINGS) + 1.0) / 7
    return features


def take_interval(states: Records, elapsed_ms: NDArray[np.int64]) -> None:
    """The typical interval: a mean over some 100 readings that a gap does not lengthen."""
    longest_known = np.maximum.reduce(states["count"], 1)
    of, (delta, interval, count) = operands(elapsed_ms, states["interval_ms"], longest_known)
    states["interval_ms"] = interval_after(of, interval, delta, count)


def interval_after(of: Functions, interval: Any, elapsed: Any, count: Any) -> Any:
    """The typical interval after a reading of a stream that had `count` before; arrays (B,) or numbers."""
    gain = (elapsed > 0) / of.smaller(count + 1.0, INTERVAL_READINGS)
    learned = interval + gain * (of.smaller(elapsed, 4 * interval) - interval)
    return of.where((elapsed > 0) & (interval == 0), elapsed, learned)


def take_values(
    states: Records, now: Float64Array, observed: NDArray[np.bool_], started: NDArray[np.bool_]
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """The running scales, as the module's text has them; what is not observed changes nothing.

    Returns:
        (B, C) the values' places: those of `now`, but where an origin has moved; (SCALES, B, C) the scales as they are
        kept, in float32; (B, C) how many values there were.
    """
    x, _, difference, values = now
    states["last"] = values
    if np.count_nonzero(started) < started.size:
        np.copyto(states["origin"], values, where=~started)
    scales = load(states, "center", SCALES)
    count = states["count"].astype(np.float64)
    count += observed
    states["count"] = count
    free, learned = _lesson(states, difference, observed)
    lessons = scale_lessons(x, difference, observed, count, free)
    scales = np.array(scales_after(ARRAYS, scales, *lessons))
    store(states, "center", scales)
    gone = far_off(scales[CENTER], scales[SPREAD], x)
    if learned is not None and learned.any():
        _heal(states, learned)
    elif np.count_nonzero(gone):
        at = np.nonzero(gone)
        move_origins(states, at, states["last"][at])
    else:
        return x, scales.astype(np.float32).astype(np.float64), count  # as states keep them
    return states["last"] - states["origin"], load(states, "center", SCALES), count


def scale_lessons(
    x: Float64Array,
    change: Float64Array,
    observed: NDArray[np.bool_],
    count: Float64Array,
    free: NDArray[np.bool_] | None,
) -> tuple[Any, ...]:
    """What `scales_after` takes: of values (B, C), how many there were, and which channels are in a first lesson."""
    gain: Any = observed / np.maximum(np.minimum(count, SCALE_READINGS), 1.0)
    taught = (None, None) if free is None else (np.broadcast_to(free, x.shape), free & observed)
    return x, np.abs(change), gain, RECENT_GAIN * observed, *taught


def scales_after(
    of: Functions, kept: Any, x: Any, leap: Any, gain: Any, recent_gain: Any, free: Any = None, taught: Any = None
) -> tuple[Any, ...]:
    """The scales of channels after a reading, as the module's text has them; arrays (..., C), or numbers.

    Args:
        leap: the size of its change.
        gain, recent_gain: 0 where nothing is observed.
        free, taught: whether channels are in their first lesson, whose bounds are none, and of these which are
            observed; None where no channel is.
    """
    center, spread, step, recent, low, high, reach = kept
    smaller, larger = of.smaller, of.larger
    by_spread, by_step = (spread, step) if free is None else (of.where(free, np.inf, s) for s in (spread, step))
    if of.some((x < low) | (x > high)):
        wild = RANGE_GROWTH * larger(high - low, by_spread)
        low = low - smaller(larger(low - x, 0.0), wild)
        high = high + smaller(larger(x - high, 0.0), wild)
    away = x - center
    far = abs(away)
    reach = larger(reach, smaller(far, 10 * by_spread))
    wide = 4 * by_spread
    center = center + gain * smaller(larger(away, -wide), wide)
    spread = spread + gain * (1.25 * smaller(far, 6 * by_spread) - spread)
    step = step + gain * (smaller(leap, 8 * by_step) - step)
    if free is not None:
        spread = larger(spread, FIRST_LESSON * far * taught)
        step = larger(step, FIRST_LESSON * leap * taught)
    spread = larger(spread, SPREAD_FLOOR * reach + RESOLUTION * abs(center) + TINY)
    step = larger(step, STEP_FLOOR * spread)
    return center, spread, step, recent + recent_gain * (x - recent), low, high, reach


def far_off(center: Any, spread: Any, x: Any) -> Any:
    """Whether a center has gone so far that its origin is to move on, and not by a wild value."""
    off = abs(center)
    return (off > FAR * spread) & (off > 2 * abs(x - center))


def _lesson(
    states: Records, difference: Float64Array, observed: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_] | None]:
    """Which channels are in their first lesson, and which end it with this reading; None if none is in it."""
    moves = states["moves"]
    free = moves <= UNCLIPPED
    if not np.count_nonzero(free):
        return None, None
    moved = observed & (difference != 0)
    moves += moved & free
    free = moves <= UNCLIPPED
    _keep_lesson(states, observed & free)
    return free, moved & (moves == UNCLIPPED)


def _keep_lesson(states: Records, learning: NDArray[np.bool_]) -> None:
    """Note the first values of a channel that differ from the one before."""
    rows, channels = np.nonzero(learning)
    states["lesson"][rows, channels, states["moves"][rows, channels]] = states["last"][rows, channels]


def _heal(states: Records, learned: NDArray[np.bool_]) -> None:
    """At the end of the first lesson, take out of the scales what a wild value among the first taught them.

    No scale may be more than some times what the median of those values tells; a garbage value at the start would
    else blind the channel for thousands of readings. Nothing is done where most of the values are one.
    """
    lesson = states["lesson"]
    median = np.median(lesson, axis=2)
    move_origins(states, (at := np.nonzero(learned)), median[at])
    deviation = 1.5 * np.median(np.abs(lesson - median[..., None]), axis=2)
    at = np.nonzero(learned & (deviation > 0))
    scale, change = deviation[at], np.median(np.abs(np.diff(lesson[at], axis=1)), axis=1)
    for name, most in (("spread", 3 * scale), ("step", 3 * change), ("reach", 10 * scale)):
        states[name][at] = np.minimum(states[name][at], most)
    for name in set(PLACES).intersection(states.dtype.names or ()):
        places = states[name][at]
        wide = 10 * scale.reshape(-1, *[1] * (places.ndim - 1))
        states[name][at] = np.clip(places, -wide, wide)


def _take_time_of_day(
    states: Records,
    scales: Float64Array,
    x: Float64Array,
    observed: NDArray[np.bool_],
    timestamps_ms: NDArray[np.int64],
    of_life: Float64Array | None,
) -> None:
    at = times_of(timestamps_ms)
    table, visits = states["table"], states["visits"]
    wide = 10 * scales[SPREAD]
    learning = states["moves"] <= UNCLIPPED
    if np.count_nonzero(learning):
        wide[learning] = np.inf
    held = held_against(states["first_ms"], timestamps_ms, at.weekday)[:, None]
    if of_life is not None:  # the day before is not that of a channel that came later
        since, back = timestamps_ms - states["first_ms"], DAYS_BACK[at.weekday] * DAY_MS
        held = held & (since[:, None] * of_life >= np.asarray(back)[..., None])
    kept = (table[at.bin], visits[at.bin], states["table_miss"][at.day], states["tried"][at.day])
    before = [each.astype(np.float64) for each in kept]
    gain = least_gain(ARRAYS, states["interval_ms"].astype(np.float64))[:, None]
    after = entry_after(ARRAYS, before, x, observed, scales[CENTER], wide, gain, held)
    table[at.bin], visits[at.bin], states["table_miss"][at.day], states["tried"][at.day] = after


def held_against(first_ms: Any, now_ms: Any, weekday: Any) -> Any:
    """Whether the table is held against a reading: there has been a day of its kind; arrays (B,), or numbers."""
    return now_ms - first_ms >= DAYS_BACK[weekday] * DAY_MS


def least_gain(of: Functions, interval_ms: Any) -> Any:
    """Of the entries of the table, by the share of a bin that a reading takes; arrays (B,), or numbers."""
    return TABLE_GAIN * of.smaller(interval_ms / BIN_MS, 1.0)


def entry_after(
    of: Functions, kept: Any, x: Any, observed: Any, center: Any, wide: Any, gain: Any, held: Any
) -> tuple[Any, Any, Any, Any]:
    """An entry of the table of the day after a reading, its visits, and miss and tries of the table; arrays (..., C),
    or numbers.

    Args:
        center: after the reading.
        wide: the most that the entry is moved by.
        gain: the least of it.
        held: whether the table is held against the reading.
    """
    entry, visits, miss, tried = kept
    smaller, larger = of.smaller, of.larger
    visits = smaller(visits + observed, MOST_VISITS)
    again = visits > 1
    if not of.every(again):
        entry = of.where(again, entry, center)
    missed = smaller(larger(x - entry, -wide), wide)
    entry = entry + observed * larger(1.0 / larger(visits, 1.0), gain) * missed
    trial = (again & held) * observed
    if of.some(trial):
        tried = smaller(tried + trial, TRIED_READINGS)
        miss = miss + trial * (abs(missed) - miss) / larger(tried, 1.0)
    return entry, visits, miss, tried
