"""Many readings of one stream at once, as those of many: what reading.py says of one after the other, to the bit.

A recording is known as a whole. T of its rows are taken for readings of T streams, each of which has the state that the
row before leaves; then reading.py looks at all of them together. To these states the rules lead that lead a stream from
one reading to the next, those of one kind through all rows after the other, in the order of what needs what: values,
scales, table, features, network, misses, levels, jumps. None of these hangs on a score. The counters and incidents do:
they are led as if nothing was anomalous.

Where the state after a row is not the one that was led to (an origin moves, a code stands for a missing value, what is
anomalous counts less), all behind it is led anew. A clock that steps and a channel that is young end the rows taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import Step
from gatewatch.models.detectors.general.alert_budget import REST_READINGS, earned, paced, take_pace
from gatewatch.models.detectors.general.codes import without_codes
from gatewatch.models.detectors.general.features import (
    BIN_MS,
    BINS,
    DAY_MS,
    HORIZONS,
    MONDAY,
    SATURDAY,
    SCALES,
    UNCLIPPED,
    Seasonal,
    entry_after,
    held_against,
    interval_after,
    least_gain,
    placed,
    running_fields,
    scale_lessons,
    scales_after,
    shown,
    take_interval,
    take_values,
)
from gatewatch.models.detectors.general.jumps import jump_after, jump_lessons
from gatewatch.models.detectors.general.lone import FADING, FADING_BUT_SHAPE, ONE, SURELY_NO_GAP, TABLE, single
from gatewatch.models.detectors.general.misses import errors_of, miss_lessons, misses_after, surprise_after, surprises
from gatewatch.models.detectors.general.reading import Look, Rules, judge, look_at
from gatewatch.models.detectors.general.score import (
    DUE,
    EVENT,
    FORECAST_LIMIT,
    KINDS,
    RANGE_ALERT_READINGS,
    SHAPE_SIZE,
    YOUNG_READINGS,
    counts,
    heard,
    lasting_after,
    places_of,
    sound_after,
)
from gatewatch.models.detectors.general.shape import FIELDS
from gatewatch.models.detectors.general.shape_alone import lead_shapes
from gatewatch.models.detectors.general.shifts import SETTLING_LIVELY, shift_gains, shifts_after
from gatewatch.models.detectors.general.tail import COUNTERS, rarity
from gatewatch.models.detectors.general.youth import youth_of
from gatewatch.models.detectors.incidents import JOIN_READINGS, MOST_READINGS, calms
from gatewatch.models.detectors.operands import ARRAYS, NUMBERS
from gatewatch.models.record_fields import block

Float64Array = NDArray[np.float64]
Records = NDArray[Any]
Bools = NDArray[np.bool_]

MOST_ROWS, MOST_BYTES = 512, 1 << 24
"""Taken at once; of states, of which there are a few copies."""

FIRST_TRY = 1
"""Rows that are judged at once after one that was not as led to; doubled as long as all are."""

_NUMBERS = NUMBERS._replace(exp=lru_cache(NUMBERS.exp))
"""The pace takes few powers."""

_STANDING = ("counted", "lasting", "sound", "calm", "told", "channel_calm", "inside", "repeats", "rested")
_RUNNING = frozenset(name for name, *_ in running_fields(1))
_SAID = ("score", "status", "reason", "alert", "mid", "half", "residual", "attribution", "parts")


class Network(Protocol):
    """Steps the network of a detector."""

    def step(self, feed: Mapping[str, NDArray[np.float32]]) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """See models.detectors.network.Network."""


def advance_rows(
    values: Float64Array,
    timestamps_ms: NDArray[np.int64],
    states: Records,
    rules: Rules,
    network: Network,
    tensors: Mapping[str, tuple[int, ...]],
) -> Step | None:
    """Feed the first rows of a recording that are usual; None, and nothing is changed, where not even one is.

    Args:
        values: (N, C) physical units, NaN where missing.
        timestamps_ms: (N,) Unix time.
        states: (1,) the stream's; changed in place.
        rules: of the detector.
        network, tensors: of the detector; shapes of a channel's state.

    Returns:
        What is said of each of the rows, one at least and MOST_ROWS at most; its states are those after the last.
    """
    if not _is_usual(states[0]):
        return None
    dtype = _without(states.dtype, (*TABLE, *tensors, *FIELDS, "ahead"))
    before = np.empty(max(min(len(values), MOST_ROWS, MOST_BYTES // dtype.itemsize), 1), dtype)
    for name in dtype.names or ():
        before[name] = states[name]
    rows = _lead_values(before, values[: len(before)], timestamps_ms[: len(before)])
    if not rows:
        return None
    before, values, times = before[:rows], values[:rows], timestamps_ms[:rows]
    _lead_scales(before, values)
    values = without_codes(values, before)
    now, elapsed, taken = placed(before, values), times - before["last_ms"], before.copy()
    take_interval(taken, elapsed)
    _, scales, count = take_values(taken, now, np.isfinite(values), before["count"] > 0)
    rows = min(_unmoved(before, taken), _agreed(before, taken, ("count", "last", "center", "interval_ms")))
    if not rows:
        return None
    before, taken, values, times = before[:rows], taken[:rows], values[:rows], times[:rows]
    now, elapsed = now[:, :rows], elapsed[:rows]

    by_day, following, table = _lead_table(states, taken, values, now, times)
    observed = np.isfinite(values)
    features = shown(now[0], now[2], scales[:, :rows], *following, times, observed, count[:rows])
    kept = {name: states[name][0].copy() for name in (*tensors, "ahead")}
    due = _look_ahead(features, taken, kept, tensors, network)
    shapes = lead_shapes(states, before, values, now, elapsed)
    _lead_misses(before, values, now, by_day, due)
    after = before.copy()
    look = look_at(values, now, by_day, due, shapes, after, rules)
    take_pace(after, elapsed, before["readings"].astype(np.int64))
    steps = list(_judge(look, after, rules))
    for name in dtype.names or ():
        states[name] = (taken if name in _RUNNING else after)[name][-1]
    states["last_ms"] = times[-1]
    for name, field in (kept | table).items():
        states[name] = field
    said = {name: np.concatenate([getattr(step, name) for step in steps]) for name in _SAID}
    return Step(**said, states=states)


def _is_usual(state: Any) -> bool:
    """Whether all channels are known, none ends its first lesson, and the clock has not stepped."""
    if state["before_ms"] or state["leapt"] or state["readings"] >= MOST_READINGS - MOST_ROWS:
        return False
    return bool(state["count"].min() >= SETTLING_LIVELY and (state["moves"] != UNCLIPPED).all())


@lru_cache
def _without(dtype: np.dtype[Any], names: tuple[str, ...]) -> np.dtype[Any]:
    return np.dtype([(name, dtype[name]) for name in dtype.names or () if name not in names])


def _agreed(before: Records | Mapping[str, Any], after: Records, names: Iterable[str]) -> int:
    """Rows up to the first one after which the state is not the one before the next row."""
    same = np.ones(len(after), bool)
    for name in names:
        alike = after[name][:-1] == before[name][1:]
        same[:-1] &= alike.all(axis=tuple(range(1, alike.ndim)))
    return len(after) if same.all() else int(same.argmin()) + 1


def _lead(rule: Callable[..., tuple[Any, ...]], records: Records, first: str, fields: int, *columns: Any) -> None:
    """Lead so many fields of (T,) records, from `first` on, by a rule and what it takes of each row."""
    kept = block(records, first, fields)
    found = np.empty(kept.shape, kept.dtype)
    found[0] = kept[0]
    held = found[0].astype(np.float64)
    each = list(held)
    for after, row in zip(found[1:], zip(*columns, strict=True), strict=False):
        for field, of_row in zip(each, rule(each, *row), strict=False):
            field[:] = of_row
        after[:] = held
        held[:] = after
    kept[:] = found


def _lead_values(records: Records, values: Float64Array, times: NDArray[np.int64]) -> int:
    """Readings, values, runs and the clock; how many rows come as usual, and have no young channel."""
    rows, channels = values.shape
    observed = np.isfinite(values)
    records["readings"] += np.arange(rows, dtype=np.uint32)
    records["count"][1:] += np.cumsum(observed, axis=0, dtype=np.uint32)[:-1]
    at = np.maximum.accumulate(np.where(observed, np.arange(1, rows + 1)[:, None], 0), axis=0)
    records["last"][1:] = np.concatenate([records["last"][:1], values])[at, np.arange(channels)][:-1]
    records["last_ms"][1:] = times[:-1]
    _lead_runs(records, placed(records, values)[2] == 0.0, observed)
    youth = youth_of(records, records["readings"].astype(np.int64), np.ones(rows))
    young = rows if youth is None else int(youth.young.any(axis=1).argmax())
    return min(_lead_clock(records, times), young)


def _lead_runs(records: Records, same: Bools, observed: Bools) -> None:
    """How long channels stand still and are missing: what `runs.runs_after` says, by sums up to where they end."""
    kept = block(records, "still", 5).swapaxes(0, 1)
    ends, moved = np.stack([observed & ~same, observed]), observed & ~same
    total = kept[:2, :1] + np.cumsum(np.stack([observed & same, ~observed]), axis=1)
    kept[:2, 1:] = (total - np.maximum.accumulate(np.where(ends, total, 0), axis=1))[:, :-1]
    longest = np.maximum.accumulate(np.where(ends, kept[:2], 0), axis=1)
    kept[2:4, 1:] = np.maximum(kept[2:4, :1], longest)[:, :-1]
    kept[4, 1:] += np.cumsum(moved, axis=0, dtype=np.uint32)[:-1]


def _lead_clock(records: Records, times: NDArray[np.int64]) -> int:
    """Intervals and pace; how many rows come as usual."""
    interval, between, pace = (float(records[name][0]) for name in ("interval_ms", "between_ms", "pace_ms"))
    found = []
    most, elapsed = records["count"].max(axis=1).tolist(), (times - records["last_ms"]).astype(np.float64).tolist()
    for n, (passed, known) in enumerate(zip(elapsed, most, strict=True), start=int(records["readings"][0])):
        if not 0 <= passed < SURELY_NO_GAP * interval:
            break
        found.append((interval, between, pace))
        interval = single(interval_after(_NUMBERS, interval, passed, known))
        between, pace = map(single, paced(_NUMBERS, between, pace, passed, n))
    usual = slice(len(found))
    clock = np.array(found).reshape(-1, 3)
    records["interval_ms"][usual], records["between_ms"][usual], records["pace_ms"][usual] = clock.T
    return len(found)


def _unmoved(before: Records, taken: Records) -> int:
    """Rows up to the first with which an origin moves, or a first lesson goes on."""
    same = (before["origin"] == taken["origin"]) & (before["moves"] == taken["moves"])
    return len(taken) if same.all() else int(same.all(axis=1).argmin())


def _lead_scales(records: Records, values: Float64Array) -> None:
    """The running scales."""
    x, _, change, _ = placed(records, values)
    observed, free = np.isfinite(values), records["moves"][0] <= UNCLIPPED
    count = records["count"].astype(np.float64) + observed
    lessons = scale_lessons(x, change, observed, count, free if free.any() else None)
    rule = partial(scales_after, ARRAYS)
    _lead(rule, records, "center", SCALES, *(each for each in lessons if each is not None))


def _lead_table(
    states: Records, taken: Records, values: Float64Array, now: Float64Array, times: NDArray[np.int64]
) -> tuple[Seasonal, tuple[Float64Array, Bools], dict[str, NDArray[Any]]]:
    """What the time of day lets expect of the rows, and of what is due after each, if it knows; the table after all.

    Args:
        states: (1,) before the first row.
        taken: (T,) after each row, but for the table.
    """
    x, place, _, _ = now
    at, following = _places(times), _places(times + np.maximum(taken["interval_ms"], 0).astype(np.int64))
    held = held_against(taken["first_ms"], times, (times // DAY_MS + MONDAY) % 7)
    gain = least_gain(ARRAYS, taken["interval_ms"].astype(np.float64))
    wide = np.where(taken["moves"] <= UNCLIPPED, np.inf, 10 * taken["spread"].astype(np.float64))
    weight, center = np.isfinite(values).astype(np.float64), taken["center"].astype(np.float64)
    lessons = zip(x, weight, center, wide, gain, held, strict=True)
    kept = [states[name][0] for name in TABLE]
    flat = [np.ascontiguousarray(each.reshape(len(each), -1).T, each.dtype) for each in kept]
    table, visits, miss, tried = flat  # (bins of all kinds of days, C), or (kinds, C)
    said = np.empty((len(x), 7, x.shape[1]))
    for bin_, day, next_bin, next_day, lesson, out in zip(*at, *following, lessons, said, strict=True):
        before = [each.astype(np.float64) for each in (table[bin_], visits[bin_], miss[day], tried[day])]
        table[bin_], visits[bin_], miss[day], tried[day] = entry_after(ARRAYS, before, *lesson)
        for into, each in zip(out, (*before, table[next_bin], visits[next_bin], tried[next_day]), strict=True):
            into[:] = each
    entry, seen, off, tries, next_entry, next_seen, next_tries = said.swapaxes(0, 1)
    known, next_known = (tries >= BINS) & (seen > 0), (next_tries >= BINS) & (next_seen > 0)
    by_day = Seasonal(np.where(known, entry, place), known, off)
    after = {name: each.T.reshape(before.shape) for name, each, before in zip(TABLE, flat, kept, strict=True)}
    return by_day, (np.where(next_known, next_entry, x), next_known), after


def _places(times: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Where rows stand in the table: among all bins of all kinds of days, and among these."""
    day = ((times // DAY_MS + MONDAY) % 7 >= SATURDAY) * 1
    return (day * BINS + times % DAY_MS // BIN_MS).tolist(), day.tolist()


def _look_ahead(
    features: NDArray[np.float32],
    after: Records,
    kept: dict[str, NDArray[Any]],
    tensors: Mapping[str, tuple[int, ...]],
    network: Network,
) -> Float64Array:
    """(T, C, horizons) what was forecast of the rows; leads the network and what it has forecast, `kept`, through them.

    Args:
        features: (T, C, FEATURES).
        after: (T,) states, with the values taken in.
    """
    rows, channels, _ = features.shape
    feed = {name: kept[name] for name in tensors}
    forecast = np.empty((rows, channels, len(HORIZONS)), np.float32)
    for row, out in zip(features, forecast, strict=True):
        out[:], tensors_after = network.step(feed | {"x": row})
        feed = dict(zip(tensors, tensors_after, strict=True))
    kept |= {name: tensor.copy() for name, tensor in feed.items()}
    steps = np.minimum(np.maximum(forecast, -FORECAST_LIMIT), FORECAST_LIMIT).astype(np.float64)
    place = after["last"] - after["origin"]
    ahead = (place[..., None] + after["step"][..., None] * steps).astype(np.float32)
    due = np.empty((rows, channels, len(HORIZONS)))
    turns = int(after["readings"][0]) + np.arange(rows)
    for h, horizon in enumerate(HORIZONS):
        due[:, :, h] = kept["ahead"][:, DUE[turns % len(DUE), h]].T
        due[horizon:, :, h] = ahead[: max(rows - horizon, 0), :, h]
        latest = turns[-horizon:]
        kept["ahead"][:, DUE[latest % len(DUE), h]] = ahead[-horizon:, :, h].T
    return due


def _lead_misses(
    records: Records, values: Float64Array, now: Float64Array, by_day: Seasonal, due: Float64Array
) -> None:
    """Mean misses and surprise, levels and activities, jumps."""
    x, _, change, _ = now
    observed, leap = np.isfinite(values), np.abs(change)
    error, known, taught = errors_of(x, due, by_day, observed)
    misses = records["misses"][0] + np.cumsum(taught, axis=0, dtype=np.uint32)
    records["misses"][1:] = misses[:-1]
    known &= records["misses"] > 0
    lessons = miss_lessons(error, taught, by_day, records)
    _lead(lambda kept, *row: misses_after(*kept, *row), records, "miss", 1, *lessons)
    _, usual = misses_after(records["miss"].astype(np.float64), *lessons)
    u, jump = surprises(error, known, usual, leap)
    _lead(lambda kept, *row: (surprise_after(*kept, *row),), records, "surprise", 1, u, observed)
    _lead(partial(shifts_after, ARRAYS), records, "level", 6, x, leap, *shift_gains(records, observed))
    lessons = jump_lessons(jump, observed, misses[..., 0], records["moves"] > UNCLIPPED)
    _lead(partial(jump_after, ARRAYS), records, "jump_edge", 3, *lessons)


def _judge(look: Look, states: Records, rules: Rules) -> Iterable[Step]:
    """What is said of the rows, by what was seen of them, some at a time; `states` (T,) are those after each."""
    start, size = 0, len(states)
    while start < len(states):
        some = slice(start, start + size)
        part, standing = look.part(some), states[some]
        _lead_standing(part, standing, rules)
        before = {name: standing[name].copy() for name in _STANDING}
        step = judge(part, standing, rules)
        agreed = _agreed(before, standing, _STANDING)
        yield Step(**{name: getattr(step, name)[:agreed] for name in _SAID}, states=states)
        start, size = start + agreed, 2 * size if agreed == len(standing) else FIRST_TRY
        if start < len(states):
            for name in _STANDING:
                states[name][start] = states[name][start - 1]


def _lead_standing(look: Look, states: Records, rules: Rules) -> None:
    """Counters, and how incidents and their budget stand, as if nothing was anomalous."""
    rows = len(states)
    sound, since = [int(states["sound"][0])], np.arange(rows)
    for whole in look.noticed.shapes.whole.tolist():
        sound.append(sound_after(NUMBERS, sound[-1] * whole, 0.0))
    states["sound"] = sound[:-1]
    _, sizes = heard(look.noticed, states["sound"] * look.noticed.shapes.whole)
    counted, seen = states["counted"], look.noticed.seen
    flat, fading = counted[0].flatten(), [np.repeat(each, COUNTERS) for each in (FADING_BUT_SHAPE, FADING)]
    at = (places_of(sizes).astype(np.intp) + COUNTERS * np.arange(KINDS)).tolist()
    for into, row, told in zip(counted[1:], at, counts(sizes, seen).tolist(), strict=False):
        if told[EVENT]:
            flat *= fading[told[SHAPE_SIZE]]
            for kind, place in enumerate(row):
                if told[kind]:
                    flat[place] += ONE
        into[:] = flat.reshape(into.shape)
    nats, _ = rarity(look.noticed.size[:, :1], counted[:, :1], look.noticed.readings, YOUNG_READINGS[:1])
    lasting, repeats = [float(states["lasting"][0])], [float(states["repeats"][0])]
    for r, told, pace in zip(nats[:, EVENT].tolist(), seen.tolist(), states["pace_ms"].tolist(), strict=True):
        lasting.append(single(lasting_after(lasting[-1], r, told)))
        repeats.append(single(earned(NUMBERS, repeats[-1], rules.alerts_per_week, pace)))
    states["lasting"], states["repeats"] = lasting[:-1], repeats[:-1]
    states["readings"] = look.noticed.readings
    calm = calms(states)
    calm[:] = np.minimum(calm[:1].astype(np.int64) + since[:, None], JOIN_READINGS)
    states["inside"] = np.minimum(int(states["inside"][0]) + since, RANGE_ALERT_READINGS)
    states["rested"][1:] = states["rested"][0] | (states["calm"][:-1] >= REST_READINGS)
