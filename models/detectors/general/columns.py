"""Running means of one stream, led through many readings: those of features.py, score.py and shifts.py, to the bit.

Each function takes what the means are held against in columns of T rows, and what they are at first, in float32 as
states keep them. It gives them before the first row and after each, (T + 1, ...), and what was taken from them on the
way. A row costs some ten operations on all channels, in memory that is there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.general.features import (
    BIN_MS,
    BINS,
    DAYS,
    FIRST_LESSON,
    MOST_VISITS,
    RANGE_GROWTH,
    RESOLUTION,
    SPREAD_FLOOR,
    STEP_FLOOR,
    TABLE_GAIN,
    TINY,
    TRIED_READINGS,
)
from gatewatch.models.detectors.general.jumps import EDGE_READINGS, jump_nats
from gatewatch.models.detectors.general.shifts import (
    CHANGE_CLIP,
    GAIN,
    HOME_CLIP,
    LEAST_UNREST,
    LEVEL_CLIP,
    SCALE_CLIP,
)

Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]
Bools = NDArray[np.bool_]

LOOKED_AHEAD = 64
"""Rows in which the next value outside of the range is looked for at once."""


def lead_scales(
    kept: Float32Array, x: Float64Array, leap: Float64Array, gain: Float64Array, recent: Float64Array,
    free: Bools, observed: Bools,
) -> tuple[Float32Array, Float64Array]:  # fmt: skip
    """The scales (T + 1, SCALES, C), and center and spread before they are rounded (T, 2, C).

    Args:
        kept: (SCALES, C) before the first row.
        x, leap: (T, C) places from the origins, sizes of changes.
        gain, recent: (T, C) gains of the scales and of the recent mean, 0 where nothing is observed.
        free: (C,) channels in their first lesson, which do not change in these rows.
    """
    rows, channels = x.shape
    found = np.empty((rows + 1, *kept.shape), np.float32)
    reckoned = np.empty((rows, 2, channels))
    found[0] = kept
    held = found[0].astype(np.float64)
    center, spread, step, near, low, high, reach = held
    wide, lesson, least, more = (np.empty((n, channels)) for n in (4, 3, 1, 1))
    factors = np.array([-4.0, 4.0, 6.0, 10.0])[:, None]
    lift = np.where(free, np.inf, 1.0) if free.any() else None
    beyond = _next_beyond(x, low, high, 0)
    for t, (now, change, g, r, true) in enumerate(zip(x, leap, gain, recent, reckoned, strict=True)):
        by_spread, by_step = (spread, step) if lift is None else (spread * lift, step * lift)
        if t == beyond:
            wild = RANGE_GROWTH * np.maximum(high - low, by_spread)
            low -= np.minimum(np.maximum(low - now, 0.0), wild)
            high += np.minimum(np.maximum(now - high, 0.0), wild)
        np.multiply(by_spread, factors, out=wide)
        np.subtract(now, center, out=lesson[0])
        np.abs(lesson[0], out=lesson[1:])
        taught = None if lift is None else FIRST_LESSON * lesson[1] * (free & observed[t])
        np.maximum(lesson[0], wide[0], out=lesson[0])
        np.minimum(lesson, wide[1:], out=lesson)
        np.maximum(reach, lesson[2], out=reach)
        np.multiply(lesson[1], 1.25, out=lesson[1])
        np.multiply(by_step, 8.0, out=lesson[2])
        np.minimum(change, lesson[2], out=lesson[2])
        np.subtract(lesson[1:], held[1:3], out=lesson[1:])
        np.multiply(lesson, g, out=lesson)
        np.add(held[:3], lesson, out=held[:3])
        if taught is not None:
            np.maximum(spread, taught, out=spread)
        np.abs(center, out=more[0])
        np.multiply(reach, SPREAD_FLOOR, out=least[0])
        np.multiply(more, RESOLUTION, out=more)
        np.add(least, more, out=least)
        np.add(least, TINY, out=least)
        np.maximum(spread, least[0], out=spread)
        np.multiply(spread, STEP_FLOOR, out=least[0])
        np.maximum(step, least[0], out=step)
        np.subtract(now, near, out=more[0])
        np.multiply(more[0], r, out=more[0])
        np.add(near, more[0], out=near)
        true[:] = held[:2]
        after = found[t + 1]
        after[:] = held
        held[:] = after
        if t == beyond:
            beyond = _next_beyond(x, low, high, t + 1)
    return found, reckoned


def _next_beyond(x: Float64Array, low: Float64Array, high: Float64Array, start: int) -> int:
    """The next row with a value outside of the range."""
    for at in range(start, len(x), LOOKED_AHEAD):
        some = x[at : at + LOOKED_AHEAD]
        outside = np.logical_or.reduce((some < low) | (some > high), 1)
        if np.count_nonzero(outside):
            return at + int(outside.argmax())
    return len(x)


class Table(NamedTuple):
    """What the table of the time of day said, (T, C) each, and what of a state it is after the last row.

    Attributes:
        entry, known, off: what it lets expect of a row before that is taken in, whether it knows, how far it is off.
        next_entry, next_known: the same of the row after, once the row is taken in.
        fields: table, visits, table_miss, tried.
    """

    entry: Float64Array
    known: Bools
    off: Float64Array
    next_entry: Float64Array
    next_known: Bools
    fields: dict[str, NDArray[Any]]


class Places(NamedTuple):
    """Where rows stand in the table: (T,) places among all bins of all kinds of days, and kinds of days."""

    bin: list[int]
    day: list[int]


def lead_table(
    states: NDArray[Any], now: Places, ahead: Places, x: Float64Array, observed: Bools, center: Float64Array,
    wide: Float64Array, interval_ms: Float64Array, held: Bools,
) -> Table:  # fmt: skip
    """The table of the time of day, led through T rows.

    Args:
        now, ahead: where the rows stand, and the readings that are due after them.
        center, wide: (T, C) scales after the row: center, and the most that an entry is moved by.
        interval_ms: (T,) after the row.
        held: (T,) whether the table is held against the row, since it is of a day after its first.
    """
    channels = x.shape[1]
    flat = {
        name: np.ascontiguousarray(states[name][0].reshape(channels, -1).T).astype(states[name].dtype)
        for name in ("table", "visits", "table_miss", "tried")
    }  # (bins of all kinds of days, C), or (kinds, C)
    table, misses = flat["table"], flat["table_miss"]
    visits, tried = (flat[name].astype(np.float64) for name in ("visits", "tried"))
    entry, off, then = (np.empty(x.shape) for _ in range(3))
    seen, tries, then_seen, then_tries = (np.empty(x.shape) for _ in range(4))
    entered, missed, gain, lesson = (np.empty(channels) for _ in range(4))
    share = TABLE_GAIN * np.minimum(interval_ms / BIN_MS, 1.0)
    weight = observed.astype(np.float64)
    whole = np.logical_and.reduce(observed, 1).tolist()
    places = zip(now.bin, now.day, ahead.bin, ahead.day, share.tolist(), held.tolist(), strict=True)
    for t, (at, day, next_at, next_day, least, is_held) in enumerate(places):
        counts, w = visits[at], weight[t]
        entered[:] = table[at]
        entry[t], off[t], seen[t], tries[t] = entered, misses[day], counts, tried[day]
        np.add(counts, w, out=counts)
        np.minimum(counts, MOST_VISITS, out=counts)
        np.maximum(counts, 1.0, out=gain)
        np.divide(1.0, gain, out=gain)
        np.maximum(gain, least, out=gain)
        again = counts > 1.0
        if np.count_nonzero(again) < channels:
            np.copyto(entered, center[t], where=~again)
        np.subtract(x[t], entered, out=missed)
        np.maximum(missed, -wide[t], out=missed)
        np.minimum(missed, wide[t], out=missed)
        if not whole[t]:
            np.multiply(gain, w, out=gain)
        np.multiply(gain, missed, out=gain)
        np.add(entered, gain, out=entered)
        table[at] = entered
        if is_held:
            trial = again & observed[t]
            if np.count_nonzero(trial):
                held_for, mean = tried[day], misses[day].astype(np.float64)
                held_for += trial
                np.minimum(held_for, TRIED_READINGS, out=held_for)
                np.abs(missed, out=lesson)
                lesson -= mean
                lesson *= trial
                lesson /= np.maximum(held_for, 1.0)
                mean += lesson
                misses[day] = mean
        then[t], then_seen[t], then_tries[t] = table[next_at], visits[next_at], tried[next_day]
    fields = {"table": table, "visits": visits, "table_miss": misses, "tried": tried}
    shapes = {"table": (DAYS, BINS), "visits": (DAYS, BINS), "table_miss": (DAYS,), "tried": (DAYS,)}
    kept = {name: field.T.reshape(channels, *shapes[name]) for name, field in fields.items()}
    known, next_known = (tries >= BINS) & (seen > 0), (then_tries >= BINS) & (then_seen > 0)
    return Table(entry, known, off, then, next_known, kept)


def lead_misses(
    kept: Float32Array, error: Float64Array, told: Bools, memory: Float64Array, least: Float64Array,
    most: Float64Array, by_table: Bools, off_by_table: Float64Array,
) -> tuple[Float32Array, Float64Array]:  # fmt: skip
    """The mean misses (T + 1, C, 5), and what a miss is usually (T, C, 5) by them.

    Args:
        error, told, memory: (T, C, 5) the misses, whether each teaches, and of how many the mean is.
        least: (T, C) what a miss is at least taken for.
        most: (C,) times the usual that a miss teaches.
        by_table: (T, C) whether the last miss is that of the table, which keeps its mean.
    """
    found = np.empty((len(error) + 1, *kept.shape), np.float32)
    usual = np.empty(error.shape)
    found[0] = kept
    mean, lesson, bound = found[0].astype(np.float64), np.empty(kept.shape), most[:, None]
    of_table = np.logical_or.reduce(by_table, 1).tolist()
    each = zip(usual, error, told.astype(np.float64), memory, least[..., None], of_table, found[1:], strict=True)
    for t, (usually, off, teaches, n, at_least, some, after) in enumerate(each):
        np.maximum(mean, at_least, out=usually)
        if some:
            np.copyto(usually[:, -1], np.maximum(off_by_table[t], at_least[:, 0]), where=by_table[t])
        np.multiply(usually, bound, out=lesson)
        np.minimum(off, lesson, out=lesson)
        np.subtract(lesson, mean, out=lesson)
        np.multiply(lesson, teaches, out=lesson)
        np.divide(lesson, n, out=lesson)
        np.add(mean, lesson, out=mean)
        after[:] = mean
        mean[:] = after
    return found, usual


def lead_means(kept: Float32Array, towards: Float64Array, gain: float, observed: Float64Array) -> tuple[Any, Any]:
    """Exponential means (T + 1, ...) as they are kept, and (T, ...) before they are rounded."""
    found = np.empty((len(towards) + 1, *kept.shape), np.float32)
    reckoned = np.empty(towards.shape)
    found[0] = kept
    mean, lesson = found[0].astype(np.float64), np.empty(kept.shape)
    for now, seen, true, after in zip(towards, observed, reckoned, found[1:], strict=True):
        np.subtract(now, mean, out=lesson)
        np.multiply(lesson, gain, out=lesson)
        np.multiply(lesson, seen, out=lesson)
        np.add(mean, lesson, out=true)
        after[:] = true
        mean[:] = after
    return found, reckoned


def lead_levels(
    kept: Float32Array, x: Float64Array, gain: Float64Array, observed: Float64Array, floor: Float64Array
) -> tuple[Float32Array, Float64Array]:
    """Level, home and drift (T + 1, 3, C), and how far each level has left its home (T, C)."""
    found = np.empty((len(x) + 1, *kept.shape), np.float32)
    strange = np.empty(x.shape)
    found[0] = kept
    held = found[0].astype(np.float64)
    level, home, drift = held
    quick = GAIN * observed
    factors = np.array([-LEVEL_CLIP, LEVEL_CLIP, -HOME_CLIP, HOME_CLIP, SCALE_CLIP])[:, None]
    wide, usual, off, far = np.empty((5, x.shape[1])), *(np.empty(x.shape[1]) for _ in range(3))
    for now, g, q, least, out, after in zip(x, gain, quick, floor, strange, found[1:], strict=True):
        np.maximum(drift, least, out=usual)
        np.multiply(usual, factors, out=wide)
        np.subtract(now, level, out=off)
        np.maximum(off, wide[0], out=off)
        np.minimum(off, wide[1], out=off)
        np.multiply(off, q, out=off)
        np.add(level, off, out=level)
        np.subtract(level, home, out=off)
        np.abs(off, out=far)
        np.maximum(off, wide[2], out=off)
        np.minimum(off, wide[3], out=off)
        np.multiply(off, g, out=off)
        np.add(home, off, out=home)
        np.divide(far, usual, out=out)
        np.minimum(far, wide[4], out=far)
        np.subtract(far, drift, out=far)
        np.multiply(far, g, out=far)
        np.add(drift, far, out=drift)
        after[:] = held
        held[:] = after
    return found, strange


def lead_activity(
    kept: Float32Array, leap: Float64Array, gain: Float64Array, observed: Float64Array, floor: Float64Array
) -> tuple[Float32Array, Float64Array]:
    """Activity and what is usual of it (T + 1, 2, C); and before they are rounded or taught, both (T, 2, C)."""
    found = np.empty((len(leap) + 1, *kept.shape), np.float32)
    reckoned = np.empty((len(leap), *kept.shape))
    found[0] = kept
    held = found[0].astype(np.float64)
    activity, usual = held
    quick = GAIN * observed
    bound, lesson = np.empty(leap.shape[1]), np.empty(leap.shape[1])
    for now, g, q, least, (active, scale), after in zip(leap, gain, quick, floor, reckoned, found[1:], strict=True):
        np.maximum(usual, least, out=scale)
        np.maximum(scale, activity, out=bound)
        np.multiply(bound, CHANGE_CLIP, out=bound)
        np.minimum(now, bound, out=lesson)
        np.subtract(lesson, activity, out=lesson)
        np.multiply(lesson, q, out=lesson)
        np.add(activity, lesson, out=activity)
        active[:] = activity
        np.multiply(scale, CHANGE_CLIP, out=bound)
        np.minimum(now, bound, out=lesson)
        np.subtract(lesson, usual, out=lesson)
        np.multiply(lesson, g, out=lesson)
        np.add(usual, lesson, out=usual)
        after[:] = held
        held[:] = after
    return found, reckoned


def lead_unrest(kept: Float32Array, ratio: Float64Array, gain: Float64Array) -> tuple[Float32Array, Float64Array]:
    """The unrest (T + 1, C), and what is usual by it (T, C)."""
    found = np.empty((len(ratio) + 1, *kept.shape), np.float32)
    usual = np.empty(ratio.shape)
    found[0] = kept
    unrest, lesson = found[0].astype(np.float64), np.empty(kept.shape)
    for now, g, usually, after in zip(ratio, gain, usual, found[1:], strict=True):
        np.maximum(unrest, LEAST_UNREST, out=usually)
        np.multiply(usually, SCALE_CLIP, out=lesson)
        np.minimum(now, lesson, out=lesson)
        np.subtract(lesson, unrest, out=lesson)
        np.multiply(lesson, g, out=lesson)
        np.add(unrest, lesson, out=unrest)
        after[:] = unrest
        unrest[:] = after
    return found, usual


def lead_jumps(
    states: NDArray[Any], size: Float64Array, told: Bools, gain: Float64Array, forecasts: NDArray[Any]
) -> Float64Array:
    """Nats of jumps (T, C); `states` (1,) have the fields of jumps.py after the last row.

    Args:
        size: (T, C) z.
        gain: (T, C) of the edges.
        forecasts: (T, C) misses of forecasts one ahead that were counted, those of the row too.
    """
    nats = np.zeros(size.shape)
    edge = states["jump_edge"][0].astype(np.float64)
    kept, fade = states["jump_edge"][0], 1.0 - gain / EDGE_READINGS
    for t, (z, fading) in enumerate(zip(size, fade, strict=True)):
        if np.count_nonzero(z > edge):
            states["misses"][0, :, 0] = forecasts[t]
            nats[t] = jump_nats(size[t : t + 1], told[t : t + 1], states)[0]
        else:
            np.multiply(edge, fading, out=edge)
            np.maximum(edge, 1.0, out=edge)
            kept[:] = edge
        edge[:] = kept
    return nats
