"""One usual reading of one stream, in numbers: the rules of score.py and others, to the bit, in a third of the time.

A numpy operation costs the same for one number as for fifty, and a reading needs some three hundred. Here each channel
is reckoned in Python numbers, by the same rules; numpy is asked for logarithms and their like, of all channels at once
where it can be, whose last bits no other library has. What is not usual (a channel is young, something is anomalous, a
clock has stepped) is left to arrays: `read_alone` then says None and has changed nothing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import LARGEST_SCORE, NORMAL, WARMING_UP, Step
from gatewatch.models.detectors.general.alert_budget import (
    REST_READINGS,
    YOUNG_NATS,
    YOUTH_READINGS,
    earned,
    paced,
    threshold_at,
)
from gatewatch.models.detectors.general.codes import LEAST_CODE
from gatewatch.models.detectors.general.features import (
    BINS,
    CENTER,
    DAY_MS,
    FEATURES,
    HIGH,
    LARGEST_VALUE,
    LOW,
    OLDEST_READINGS,
    REACH,
    RECENT_GAIN,
    RESOLUTION,
    SCALE_READINGS,
    SPREAD,
    SPREAD_FLOOR,
    STEP,
    STEP_FLOOR,
    TINY,
    UNCLIPPED,
    Times,
    entry_after,
    far_off,
    held_against,
    interval_after,
    least_gain,
    scales_after,
    times_of,
)
from gatewatch.models.detectors.general.jumps import EDGE_READINGS, LEAST_GAIN, SETTLING_READINGS, jump_after
from gatewatch.models.detectors.general.misses import (
    LARGEST_LESSON,
    LARGEST_MISS,
    TABLE_READINGS,
    nats_of,
    surprise_after,
)
from gatewatch.models.detectors.general.reading import Rules
from gatewatch.models.detectors.general.runs import (
    MOST_OF_RUNS,
    RANGE_MARGIN,
    RANGE_READINGS,
    RANGE_SLOPE,
    range_nats,
    runs_after,
)
from gatewatch.models.detectors.general.score import (
    DUE,
    EVENT,
    FORECAST_LIMIT,
    JUMP,
    KINDS,
    LARGEST_PART,
    LASTING_FACTOR,
    MORE_NATS,
    MOST_NATS,
    RANGE_ALERT_READINGS,
    SHAPE,
    SHAPE_SIZE,
    YOUNG_READINGS,
    lasting_after,
    sound_after,
)
from gatewatch.models.detectors.general.shape import is_whole
from gatewatch.models.detectors.general.shape_alone import ShapeLayout, take_alone
from gatewatch.models.detectors.general.shifts import (
    FARTHEST_LEVEL,
    FARTHEST_LIVELY,
    GAIN,
    HOME_READINGS,
    SETTLING,
    SETTLING_LIVELY,
    shifts_after,
)
from gatewatch.models.detectors.general.tail import (
    COUNTED_READINGS,
    COUNTERS,
    LEAST,
    PRIOR_READINGS,
    RATIO,
    jump_rarity,
)
from gatewatch.models.detectors.general.youth import AS_OLD, BEHIND
from gatewatch.models.detectors.incidents import JOIN_READINGS, MOST_READINGS
from gatewatch.models.detectors.judged import APART_READINGS, RUN_ALLOWANCE, RUN_MARGIN, pool, shares_alone
from gatewatch.models.detectors.operands import NUMBERS

Float64Array = NDArray[np.float64]
Records = NDArray[Any]

MOST_CHANNELS = 16
"""With more, arrays are quicker."""

SURELY_NO_GAP = 99.0
"""Intervals; a longer time is looked at by models.detectors.clock."""

FAR_AS_CODE = 99.0
"""Spreads; what is farther off may be a code."""

FLOAT = struct.Struct("<f")
YOUNG, YOUNG_THRESHOLDS = YOUNG_READINGS.tolist(), YOUNG_NATS.tolist()
LOG_RATIO, LEAST_NATS = float(RATIO), float(MORE_NATS)
NOT_OFF = (0.0,) * 5
TABLE = ("table", "visits", "table_miss", "tried")
ONE = np.float32(1.0)
FADING = np.full((KINDS, 1), 1 - 1 / COUNTED_READINGS, np.float32)
FADING_BUT_SHAPE = np.where(np.arange(KINDS)[:, None] == SHAPE_SIZE, ONE, FADING)


class Taken(NamedTuple):
    """A usual reading of one stream, judged and taken in, but for what is forecast from it.

    Attributes:
        step: what is said of it.
        features: (C, FEATURES) for the network.
        places: C values, from the origins.
        steps: C usual steps.
        turn: the reading's number.
    """

    step: Step
    features: NDArray[np.float32]
    places: list[float]
    steps: tuple[float, ...]
    turn: int


class _Seen(NamedTuple):
    """A reading of one stream, by channel.

    Attributes:
        there: whether the channel has a value; else it is taken for the one before.
        values: physical units.
        places: from the origins.
        changes: from the values before.
    """

    there: list[bool]
    values: list[float]
    places: list[float]
    changes: list[float]

    @classmethod
    def of(cls, row: list[float], state: _State) -> _Seen:
        """From the values as they came, NaN where missing."""
        there = [value == value for value in row]  # NaN is not itself
        values = [value if seen else last for value, seen, last in zip(row, there, state.last, strict=True)]
        places = [value - origin for value, origin in zip(values, state.origin, strict=True)]
        return cls(there, values, places, [value - last for value, last in zip(values, state.last, strict=True)])

    def plain(self, state: _State) -> bool:
        """Whether there is a value, all can be summed, none may stand for a missing one, and no channel is in its first
        lesson, but one that rests."""
        sizes, c = list(map(abs, self.values)), len(self.values)
        if not any(self.there) or not max(sizes) < LARGEST_VALUE:
            return False
        if min(state.moves) <= UNCLIPPED:
            moved = zip(state.moves, self.changes, strict=True)
            if any(moves == UNCLIPPED or (moves < UNCLIPPED and change != 0.0) for moves, change in moved):
                return False
        if max(sizes) < LEAST_CODE:
            return True
        center, spread = state.scales[:c], state.scales[SPREAD * c : (SPREAD + 1) * c]
        bounds = zip(self.places, center, spread, strict=True)
        return all(abs(place - middle) < FAR_AS_CODE * wide for place, middle, wide in bounds)


class _Layout:
    """Where a stream's state has its numbers: neighbouring fields, read and written as one."""

    def __init__(self, dtype: np.dtype[Any], channels: int) -> None:
        held: Any = dtype.fields
        c = channels
        self.head, self.head_at = struct.Struct(f"<qq?dI{2 + c}HHfff?qf{c}I{c}B"), held["last_ms"][1]
        self.places, self.places_at = struct.Struct(f"<{2 * c}d{7 * c}f"), held["last"][1]
        self.scales, self.scales_at = struct.Struct(f"<{7 * c}f"), held["center"][1]
        self.misses, self.misses_at = struct.Struct(f"<{5 * c}f{5 * c}I{c}f1f"), held["miss"][1]
        self.sound, self.sound_at = struct.Struct("<H"), held["sound"][1]
        self.shape = ShapeLayout.of(dtype, c)
        self.runs, self.runs_at = struct.Struct(f"<{5 * c}I{9 * c}f"), held["still"][1]


@lru_cache
def _layout(dtype: np.dtype[Any], channels: int) -> _Layout:
    return _Layout(dtype, channels)


class _State:
    """What stands in the state of one stream."""

    def __init__(self, states: Records, channels: int) -> None:
        self.layout, self.record = _layout(states.dtype, channels), states.view(np.uint8).data
        layout, record, c = self.layout, self.record, channels
        head = layout.head.unpack_from(record, layout.head_at)
        self.last_ms, self.before_ms, self.leapt, self.gap_ms, self.readings = head[:5]
        self.calms, self.inside = head[5 : 7 + c], head[7 + c]
        self.between_ms, self.pace_ms, self.repeats, self.rested, self.first_ms, self.interval_ms = head[8 + c : 14 + c]
        self.count, self.moves = head[14 + c : 14 + 2 * c], head[14 + 2 * c :]
        self.resting = [moves <= UNCLIPPED for moves in self.moves]
        places = layout.places.unpack_from(record, layout.places_at)
        self.last, self.origin, self.scales = places[:c], places[c : 2 * c], places[2 * c :]
        misses = layout.misses.unpack_from(record, layout.misses_at)
        self.miss, self.misses, self.surprise = misses[: 5 * c], misses[5 * c : 10 * c], misses[10 * c : 11 * c]
        self.lasting = misses[-1]
        (self.sound,) = layout.sound.unpack_from(record, layout.sound_at)
        runs = layout.runs.unpack_from(record, layout.runs_at)
        self.runs, self.jumps, self.lasts = runs[: 5 * c], runs[5 * c : 8 * c], runs[8 * c :]
        paces = self.between_ms + self.pace_ms + self.repeats + self.interval_ms
        self.finite = math.isfinite(paces + sum(places) + sum(misses) + sum(runs))

    def usual_at(self, now_ms: int) -> bool:
        """Whether the clock goes on as usual, nothing was anomalous, and all channels are known, and equally long."""
        if (
            not SETTLING_LIVELY <= min(self.count) <= max(self.count) <= self.readings < MOST_READINGS
            or min(self.misses) == 0
            or self.calms[0] == 0
            or self.before_ms
            or not 0 <= now_ms - self.last_ms < SURELY_NO_GAP * self.interval_ms
        ):
            return False
        c = len(self.count)
        absences = map(max, self.runs[c : 2 * c], self.runs[3 * c : 4 * c])
        here = [count + absence for count, absence in zip(self.count, absences, strict=True)]
        return self.finite and min(here) + BEHIND >= AS_OLD * max(here)


def read_alone(values: Float64Array, timestamps_ms: NDArray[np.int64], states: Records, rules: Rules) -> Taken | None:
    """Judge a usual reading of one stream and take it in; None, and nothing is changed, where it is not usual.

    Args:
        values: (1, C) physical units, NaN where missing.
        timestamps_ms: (1,) Unix time.
        states: (1,) changed in place.
        rules: of the detector.
    """
    channels, state = values.shape[1], _State(states, values.shape[1])
    now_ms, n, of = timestamps_ms.item(), state.readings, NUMBERS
    if not state.usual_at(now_ms):
        return None
    seen, due = _Seen.of(values[0].tolist(), state), states["ahead"][0].take(DUE[n % len(DUE)], 1).tolist()
    if not seen.plain(state) or not math.isfinite(sum(map(sum, due))):
        return None

    at = times_of(timestamps_ms)
    least, floor = _least(states, state, channels)
    surprise, events, jump, usual, missed = _surprise(seen, due, least, states, at, state)
    far, lively, lasts = _shifts(seen, floor, state)
    jumped, jumps = _jumps(jump, missed, seen, state)
    elapsed = float(now_ms - state.last_ms)
    known = state.count, state.moves, state.runs[channels : 2 * channels]
    shapes = take_alone(states, state.layout.shape, seen.there, seen.values, seen.changes, known)
    if shapes is None:
        return None
    sound = state.sound * is_whole(elapsed, state.interval_ms)
    share = channels**0.25
    kinds = [[each / share for each in kind] for kind in (events, far, lively, shapes.heard(seen.there, sound))]
    sizes = [*pool(np.array(kinds)).tolist(), max(jumped)]
    nats, places = _rarity(sizes, states["counted"], n)
    threshold, youth = threshold_at(of, rules.alerts_per_week, state.pace_ms), of.exp(n / -YOUTH_READINGS)
    first, by_range = (max(threshold, young * youth) for young in YOUNG_THRESHOLDS)
    limit = first + LEAST_NATS
    still, absent, runs = _runs(seen, state)
    outside = _outside(seen, n, by_range, state)
    lasting = lasting_after(state.lasting, nats[EVENT], True)
    ratios = [each / limit for each in nats]
    at_once = JUMP if ratios[JUMP] > ratios[EVENT] else EVENT
    level = [LASTING_FACTOR * lasting / first, *ratios[1:SHAPE_SIZE]]
    largest = (ratios[at_once], max(level), max(still), max(absent), max(outside), ratios[SHAPE_SIZE])
    parts = [min(max(0.0, part), LARGEST_PART) for part in largest]
    score, scales = max(parts), _scales(seen, state)
    if score > 1.0 or scales is None:
        shapes.put_back(states, state.layout.shape)
        return None

    # it is usual: from here on it is taken in
    interval_ms = single(interval_after(of, state.interval_ms, elapsed, max(state.count)))
    between_ms, pace_ms = paced(of, state.between_ms, state.pace_ms, elapsed, n)
    repeats = earned(of, state.repeats, rules.alerts_per_week, single(pace_ms))
    rested = state.rested or state.calms[0] >= REST_READINGS
    calms = [min(calm + 1, JOIN_READINGS) for calm in state.calms]
    inside = min(state.inside + 1, RANGE_ALERT_READINGS)
    counts = [count + there for count, there in zip(state.count, seen.there, strict=True)]
    layout, record = state.layout, state.record
    stream = (n + 1, *calms, inside, between_ms, pace_ms, repeats, rested, state.first_ms, interval_ms)
    clock = (now_ms, state.before_ms, state.leapt, state.gap_ms)
    layout.head.pack_into(record, layout.head_at, *clock, *stream, *counts, *state.moves)
    layout.places.pack_into(record, layout.places_at, *seen.values, *state.origin, *scales)
    layout.misses.pack_into(record, layout.misses_at, *missed, *surprise, lasting)
    layout.runs.pack_into(record, layout.runs_at, *runs, *jumps, *lasts)
    layout.sound.pack_into(record, layout.sound_at, sound_after(NUMBERS, sound, max(parts[:SHAPE])))
    counted = states["counted"][0]
    counted *= FADING if sizes[SHAPE_SIZE] else FADING_BUT_SHAPE
    for kind, place in enumerate(places):
        if sizes[kind] or kind != SHAPE_SIZE:
            counted[kind, int(place)] += ONE
    kept = layout.scales.unpack_from(record, layout.scales_at)  # as float32 has them
    _take_time_of_day(seen, kept, interval_ms, states, now_ms, at, state)
    features = _features(seen, counts, kept, states, timestamps_ms + max(int(interval_ms), 0), now_ms)

    reason = parts.index(score)
    kinds.append(jumped)
    strange = (kinds[at_once], kinds[level.index(max(level))], still, absent, outside, kinds[SHAPE_SIZE])[reason]
    off = [
        min(max((place - forecasts[0]) * there / miss, -LARGEST_MISS), LARGEST_MISS)
        for place, forecasts, there, miss in zip(seen.places, due, seen.there, usual, strict=True)
    ]
    step = Step(
        score=np.array([score], np.float32),
        status=np.array([NORMAL if n >= rules.warm_up else WARMING_UP], np.uint8),
        reason=np.array([reason], np.uint8),
        alert=np.array([False]),
        mid=np.array([[origin + each[0] for origin, each in zip(state.origin, due, strict=True)]]),
        half=np.array([[min(rules.rare * miss, LARGEST_SCORE) for miss in usual]], np.float32),
        residual=np.array([off], np.float32),
        attribution=shares_alone(strange),
        parts=np.array([parts]),
        states=states,
    )
    return Taken(step, features, seen.places, kept[STEP * channels : (STEP + 1) * channels], n)


def look_ahead(taken: Taken, forecast: NDArray[np.float32], states: Records) -> None:
    """Keep what the network forecasts (C, horizons), in steps from the values."""
    ahead = [
        [place + step * min(max(each, -FORECAST_LIMIT), FORECAST_LIMIT) for each in steps]
        for place, step, steps in zip(taken.places, taken.steps, forecast.tolist(), strict=True)
    ]
    states["ahead"][0][:, DUE[taken.turn % len(DUE)]] = ahead


def single(number: float) -> float:
    """As a state keeps it, in float32."""
    return float(FLOAT.unpack(FLOAT.pack(number))[0])


def _least(states: Records, state: _State, channels: int) -> tuple[list[float], list[float]]:
    """What a miss, and what a straying, are at least taken for."""
    steps = (STEP_FLOOR * states["step"][0]).tolist()  # in float32, as there
    reach = [SPREAD_FLOOR * each for each in state.scales[REACH * channels :]]
    fuzz = [RESOLUTION * abs(origin) for origin in state.origin]
    least = [max(pair) + more + TINY for *pair, more in zip(reach, steps, fuzz, strict=True)]
    return least, [each + more + TINY for each, more in zip(reach, fuzz, strict=True)]


def _surprise(
    seen: _Seen, due: list[list[float]], least: list[float], states: Records, now: Times, state: _State
) -> tuple[list[float], list[float], list[float], list[float], list[float]]:
    """Of each channel: a after the reading, to be kept and as it counts; how far it jumped; the mean miss before; and
    the misses to be kept."""
    table, visits = states["table"][now.bin][0].tolist(), states["visits"][now.bin][0].tolist()
    table_miss, tried = states["table_miss"][now.day][0].tolist(), states["tried"][now.day][0].tolist()
    off: list[float] = []
    jump, before, miss, misses = [], [], list(state.miss), list(state.misses)
    for c, place in enumerate(seen.places):
        bound, at = least[c], 5 * c
        usual = max(miss[at], bound)
        before.append(max(usual, TINY))
        if not seen.there[c]:
            off += NOT_OFF
            jump.append(0.0)
            continue
        leap, most = abs(seen.changes[c]) / usual, math.inf if state.resting[c] else LARGEST_LESSON
        for expected in due[c]:
            error, mean = abs(place - expected), miss[at]
            usual = mean if mean > bound else bound
            off.append(min(error / usual, LARGEST_MISS))
            misses[at] += 1
            miss[at] = mean + (min(error, most * usual) - mean) / misses[at]
            at += 1
        jump.append(min(off[-4], leap))
        if tried[c] >= BINS and visits[c] > 0:  # the table's misses are kept elsewhere
            off.append(min(abs(place - table[c]) / max(table_miss[c], bound), LARGEST_MISS))
        else:
            error, mean = abs(place - (state.last[c] - state.origin[c])), miss[at]
            usual = max(mean, bound)
            off.append(min(error / usual, LARGEST_MISS))
            misses[at] += 1
            miss[at] = mean + (min(error, most * usual) - mean) / min(float(misses[at]), TABLE_READINGS)
    nats = nats_of(np.array(off)).tolist()
    kept, counts = list(state.surprise), []
    for c, there in enumerate(seen.there):
        if there:
            one, three, ten, thirty, seasonal = nats[5 * c : 5 * c + 5]
            kept[c] = surprise_after(kept[c], ((one + three + ten + thirty) / 4 + seasonal) / 2, there)
        counts.append(kept[c] if there else 0.0)
    return kept, counts, jump, before, [*miss, *misses]


def _by_field(channels: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """What rules say of each channel, by what they say."""
    return list(zip(*channels, strict=True))


def _shifts(seen: _Seen, floor: list[float], state: _State) -> tuple[list[float], list[float], tuple[float, ...]]:
    """How strange each channel's level and activity are; and the fields to be kept."""
    c = len(floor)
    *after, far, lively = _by_field(
        shifts_after(
            NUMBERS, state.lasts[at::c], place, abs(seen.changes[at]), GAIN * seen.there[at],
            seen.there[at] / min(max(state.count[at], SETTLING), HOME_READINGS), floor[at],
        )
        for at, place in enumerate(seen.places)
    )  # fmt: skip
    levels = [min(each, FARTHEST_LEVEL) * there for each, there in zip(far, seen.there, strict=True)]
    activities = [min(each, FARTHEST_LIVELY) * there for each, there in zip(lively, seen.there, strict=True)]
    return levels, activities, tuple(chain(*after))


def _jumps(size: list[float], missed: list[float], seen: _Seen, state: _State) -> tuple[list[float], tuple[float, ...]]:
    """Nats of each channel's jump; and the fields to be kept."""
    c, after = len(size), []
    for at, (z, there) in enumerate(zip(size, seen.there, strict=True)):
        forecasts = missed[5 * (c + at)]
        gain = there * max(LEAST_GAIN, 2.0 / (forecasts + 1.0))
        known = forecasts >= SETTLING_READINGS and not state.resting[at]
        after.append(jump_after(NUMBERS, state.jumps[at::c], z, there, gain, 1.0 - gain / EDGE_READINGS, known))
    *fields, nats = _by_field(after)
    return list(nats), tuple(chain(*fields))


def _rarity(sizes: list[float], counted: NDArray[np.float32], n: int) -> tuple[list[float], list[float]]:
    """Nats and places among the counters (1, KINDS, COUNTERS) of the sizes of all kinds."""
    counters = counted[0, :JUMP]
    totals = np.add.reduce(counters, 1, np.float64).tolist()
    below = np.add.accumulate(counters, 1, np.float64)
    logarithms = np.log(np.array([max(size, 1e-9) / LEAST for size in sizes[:JUMP]])).tolist()
    places = [min(max(logarithm / LOG_RATIO, 0.0), COUNTERS - 1.001) for logarithm in logarithms]
    z = [3 * size for size in sizes[:JUMP]]
    known = [n / (n + young) for young in YOUNG]
    powers = np.log1p(np.array([each + each * each / 2 for each in z])).tolist()
    powers = [max((power - each) * share, -60.0) for power, each, share in zip(powers, z, known, strict=True)]
    tail, rare = np.exp(np.array(powers)).tolist(), []
    for kind, place in enumerate(places):
        at = int(place)
        larger = max(totals[kind] - below.item(kind, at) + (1 - place % 1) * counters.item(kind, at), 0.0)
        rare.append((PRIOR_READINGS * tail[kind] + larger) / (PRIOR_READINGS + totals[kind]))
    event, *lasting = [-each for each in np.log(np.array(rare)).tolist()]
    nats = [event, *(min(each, MOST_NATS * size) for each, size in zip(lasting, sizes[1:JUMP], strict=True))]
    if not sizes[JUMP]:
        return [*nats, 0.0], [*places, 0.0]
    jump, place_of_jump = jump_rarity(np.array(sizes[JUMP:]), counted[:, JUMP])
    return [*nats, jump.item()], [*places, place_of_jump.item()]


def _runs(seen: _Seen, state: _State) -> tuple[list[float], list[float], tuple[int, ...]]:
    """How long each channel has stood still and been missing, in units of what is usual for it; and what is kept."""
    c, after, stood, missing, factors = len(seen.there), [], [], [], [1.0]
    if c > 1:
        rests = [1.0 - changes / count for changes, count in zip(state.runs[4 * c :], state.count, strict=True)]
        factors = (c ** np.array(rests)).tolist()  # numpy's, whose last bit is not Python's
    for at, (there, factor) in enumerate(zip(seen.there, factors, strict=True)):
        kept = state.runs[at::c]
        limit, limit_absent = RUN_MARGIN * kept[2] * factor + RUN_ALLOWANCE, RUN_MARGIN * kept[3] + RUN_ALLOWANCE
        same = there and seen.changes[at] == 0.0
        runs = runs_after(NUMBERS, kept, same, there and not same, there, True)
        stood.append(0.0 if state.resting[at] else _run(runs[0], limit))
        missing.append(_run(runs[1], limit_absent))
        after.append(runs)
    return stood, missing, tuple(chain(*_by_field(after)))


def _run(readings: int, limit: float) -> float:
    return min(readings / limit, MOST_OF_RUNS) if readings <= limit + APART_READINGS else 0.0


def _outside(seen: _Seen, n: int, threshold: float, state: _State) -> list[float]:
    """How strange it is that each channel has left its range so far."""
    c, slope = len(seen.places), RANGE_SLOPE * (n / (n + RANGE_READINGS))
    strange = [0.0] * c
    for at, place in enumerate(seen.places):
        low, high = state.scales[LOW * c + at], state.scales[HIGH * c + at]
        excess = max(place - high, low - place) / max(high - low, 1e-30)
        if excess > RANGE_MARGIN and high > low and seen.there[at]:
            strange[at] = range_nats(NUMBERS, excess, state.count[at], c, slope) / threshold
    return strange


def _scales(seen: _Seen, state: _State) -> tuple[float, ...] | None:
    """The running scales after the reading; None where an origin is to move."""
    c, after = len(seen.places), []
    for at, place in enumerate(seen.places):
        there, first = seen.there[at], (True, seen.there[at]) if state.resting[at] else ()
        gain, leap = there / min(state.count[at] + there, SCALE_READINGS), abs(seen.changes[at])
        scales = scales_after(NUMBERS, state.scales[at::c], place, leap, gain, RECENT_GAIN * there, *first)
        if far_off(scales[CENTER], scales[SPREAD], place):
            return None
        after.append(scales)
    return tuple(chain(*_by_field(after)))


def _take_time_of_day(
    seen: _Seen,
    kept: tuple[float, ...],
    interval_ms: float,
    states: Records,
    now_ms: int,
    at: Times,
    state: _State,
) -> None:
    """Write what the reading teaches the table of the day; `kept` are the scales after it."""
    c = len(seen.places)
    fields = [states[name][where][0] for name, where in zip(TABLE, (at.bin, at.bin, at.day, at.day), strict=True)]
    gain, held = least_gain(NUMBERS, interval_ms), bool(held_against(state.first_ms, now_ms, at.weekday))
    before = zip(*(field.tolist() for field in fields), strict=True)
    spreads = kept[SPREAD * c : (SPREAD + 1) * c]
    wide = [math.inf if rests else 10 * spread for rests, spread in zip(state.resting, spreads, strict=True)]
    after = [
        entry_after(NUMBERS, entry, place, there, center, most, gain, held)
        for entry, place, there, center, most in zip(before, seen.places, seen.there, kept[:c], wide, strict=True)
    ]
    for field, of_channels in zip(fields, _by_field(after), strict=True):
        field[:] = of_channels


def _features(
    seen: _Seen,
    counts: list[int],
    kept: tuple[float, ...],
    states: Records,
    then_ms: NDArray[np.int64],
    now_ms: int,
) -> NDArray[np.float32]:
    """What the network is shown, (C, FEATURES); `kept` are the scales, `then_ms` (1,) when the next reading is due."""
    c = len(counts)
    center, spread, step, recent = (kept[at : at + c] for at in range(0, 4 * c, c))
    then = times_of(then_ms)
    table, visits = states["table"][then.bin][0].tolist(), states["visits"][then.bin][0].tolist()
    tried = states["tried"][then.day][0].tolist()
    known, offsets, ratios = [], [], []
    for at, place in enumerate(seen.places):
        known.append(tried[at] >= BINS and visits[at] > 0)
        next_off = table[at] - place if known[at] else 0.0
        wide, high = max(spread[at], TINY), max(step[at], TINY)
        offsets += [(place - center[at]) / wide, seen.changes[at] / high, (place - recent[at]) / high]
        offsets += [next_off / wide, next_off / high]
        ratios.append(high / wide)
    ages = [min(count, OLDEST_READINGS) + 1.0 for count in counts]
    shown = np.arcsinh(np.array(offsets)).reshape(c, 5)
    logarithms = np.log(np.array([*ratios, *ages]))
    angle = (2 * np.pi / DAY_MS) * (now_ms % DAY_MS)
    features = np.empty((c, FEATURES), np.float32)
    features[:, :2] = shown[:, :2]
    features[:, 2] = logarithms[:c]
    features[:, 3:5] = shown[:, 2:4]
    features[:, 5] = shown[:, 4] * 0.2
    features[:, 6] = known
    features[:, 7] = np.sin(angle)
    features[:, 8] = np.cos(angle)
    features[:, 9] = [not there for there in seen.there]
    features[:, 10] = logarithms[c:] / 7
    return features
