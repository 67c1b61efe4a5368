"""One usual reading of one stream, in numbers: what score.py and features.py say of arrays, to the bit, in a third of
the time.

A numpy operation costs the same for one number as for fifty, and a reading needs some three hundred. Here each channel
is reckoned in Python numbers; numpy is asked for logarithms and their like of all channels at once, whose last bits no
other library has. The rules are those of the modules named above, where they are explained; a test holds both to each
other. What is not usual (a value is missing, a channel is young, something is anomalous, a clock has stepped) is left
to them: `read_alone` then says None and has changed nothing.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.general.codes import FAR as CODE_FAR
from gatewatch.models.detectors.general.codes import LEAST_CODE
from gatewatch.models.detectors.general.features import (
    BIN_MS,
    BINS,
    CENTER,
    DAY_MS,
    DAYS_BACK,
    FAR,
    FEATURES,
    HIGH,
    LARGEST_VALUE,
    LOW,
    MOST_VISITS,
    OLDEST_READINGS,
    RANGE_GROWTH,
    REACH,
    RECENT_GAIN,
    RESOLUTION,
    SCALE_READINGS,
    SPREAD,
    SPREAD_FLOOR,
    STEP_FLOOR,
    TABLE_GAIN,
    TINY,
    TRIED_READINGS,
    UNCLIPPED,
    Times,
    take_interval,
    times_of,
)
from gatewatch.models.detectors.general.jumps import (
    EDGE_READINGS,
    LARGEST_EXCESS,
    LEAST_GAIN,
    MOST_JUMPS,
    PRIOR,
    SETTLING_READINGS,
)
from gatewatch.models.detectors.general.score import (
    EVENT,
    EVENT_GAIN,
    JUMP,
    LARGEST_LESSON,
    LARGEST_MISS,
    LARGEST_PART,
    LASTING_FACTOR,
    LASTING_GAIN,
    MORE_NATS,
    MOST_NATS,
    MOST_OF_RUNS,
    RANGE_MARGIN,
    TABLE_READINGS,
    YOUNG_READINGS,
    due_forecasts,
    nats_of,
)
from gatewatch.models.detectors.general.shifts import (
    CHANGE_CLIP,
    FARTHEST_LEVEL,
    FARTHEST_LIVELY,
    GAIN,
    HOME_CLIP,
    HOME_READINGS,
    LEAST_UNREST,
    LEVEL_CLIP,
    QUIETEST,
    SCALE_CLIP,
    SETTLING,
    SETTLING_LIVELY,
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
from gatewatch.models.detectors.incidents import MOST_READINGS
from gatewatch.models.detectors.trained.score import APART_READINGS, RUN_ALLOWANCE, RUN_MARGIN, Judged, pool, shares

Float64Array = NDArray[np.float64]
Records = NDArray[Any]

MOST_CHANNELS = 16
"""With more, arrays are quicker."""

YOUNG = YOUNG_READINGS.tolist()
LOG_EDGE = float(np.log(EDGE_READINGS))
NEARLY = 0.999
"""What comes so near to a bound is left to arrays."""

ONE = np.float32(1.0)
FADING = np.float32(1 - 1 / COUNTED_READINGS)


class Reading(NamedTuple):
    """What came of a reading of each of B streams.

    Attributes:
        judged: as `judge_general` says.
        mid: (B, C) what was expected, physical units.
        usual: (B, C) mean miss of the forecast, physical units.
        features: (B, C, FEATURES) for the network.
    """

    judged: Judged
    mid: Float64Array
    usual: Float64Array
    features: NDArray[np.float32]


class _Layout:
    """Where a stream's state has its numbers: neighbouring fields, read and written as one."""

    def __init__(self, dtype: np.dtype[Any], channels: int) -> None:
        held: Any = dtype.fields
        c = channels
        self.counts, self.count_at = struct.Struct(f"<{c}I{c}B"), held["count"][1]
        self.places, self.places_at = struct.Struct(f"<{2 * c}d{7 * c}f"), held["last"][1]
        self.scales, self.scales_at = struct.Struct(f"<{7 * c}f"), held["center"][1]
        self.misses, self.misses_at = struct.Struct(f"<{5 * c}f{5 * c}I{c}f1f"), held["miss"][1]
        self.runs, self.runs_at = struct.Struct(f"<{5 * c}I{9 * c}f"), held["still"][1]


@lru_cache
def _layout(dtype: np.dtype[Any], channels: int) -> _Layout:
    return _Layout(dtype, channels)


class _State:
    """What stands in the state of one stream, and what is to stand there."""

    def __init__(self, states: Records, channels: int) -> None:
        self.layout, self.record = _layout(states.dtype, channels), states.view(np.uint8).data
        layout, record, c = self.layout, self.record, channels
        counts = layout.counts.unpack_from(record, layout.count_at)
        self.count, self.moves = counts[:c], counts[c:]
        places = layout.places.unpack_from(record, layout.places_at)
        self.last, self.origin, self.scales = places[:c], places[c : 2 * c], places[2 * c :]
        misses = layout.misses.unpack_from(record, layout.misses_at)
        self.miss, self.misses, self.surprise = misses[: 5 * c], misses[5 * c : 10 * c], misses[10 * c : 11 * c]
        self.lasting = misses[-1]
        runs = layout.runs.unpack_from(record, layout.runs_at)
        self.still, self.absent, self.longest_still, self.longest_absent, self.changes = (
            runs[at : at + c] for at in range(0, 5 * c, c)
        )
        self.jumps, self.lasts = runs[5 * c : 8 * c], runs[8 * c :]
        self.finite = math.isfinite(sum(places) + sum(misses) + sum(runs))

    @property
    def grown(self) -> bool:
        """Whether all channels are known, and equally long."""
        if (
            not SETTLING_LIVELY <= min(self.count) <= max(self.count) < MOST_READINGS
            or min(self.moves) <= UNCLIPPED
            or min(self.misses) == 0
        ):
            return False
        absences = map(max, self.absent, self.longest_absent)
        here = [count + absence for count, absence in zip(self.count, absences, strict=True)]
        return self.finite and min(here) + BEHIND >= AS_OLD * max(here)


def read_alone(
    values: Float64Array,
    timestamps_ms: NDArray[np.int64],
    elapsed_ms: NDArray[np.int64],
    states: Records,
    readings: NDArray[np.int64],
    limits: Float64Array,
) -> Reading | None:
    """Judge a usual reading of one stream and take it in; None, and nothing is changed, where it is not usual.

    Args:
        values: (1, C) physical units.
        timestamps_ms: (1,) Unix time.
        elapsed_ms: (1,) since the reading before; negative where the clock tells nothing.
        states: (1,) changed in place.
        readings: (1,) how many the stream has seen.
        limits: (1, 2) T in nats, of what is counted and of `range`.
    """
    channels, row = values.shape[1], values[0].tolist()
    state = _State(states, channels)
    due = due_forecasts(states, readings)[0].tolist()
    if not state.grown or not math.isfinite(sum(map(sum, due)) + sum(row)) or elapsed_ms.item() < 0:
        return None
    x = [value - origin for value, origin in zip(row, state.origin, strict=True)]
    change = [value - last for value, last in zip(row, state.last, strict=True)]
    if not _plain(row, x, state, channels):
        return None

    now = times_of(timestamps_ms)
    least, floor = _least(states, state, channels)
    surprise, jump, usual, missed = _surprise(x, change, due, least, states, now, state)
    far, lively, lasts = _strayed(x, change, floor, state)
    nats_of_jumps, jumps = _jumps(jump, missed, state)
    share = channels**0.25
    kinds = [[each / share for each in kind] for kind in (surprise, far, lively)]
    sizes = [*pool(np.array(kinds)).tolist(), max(nats_of_jumps)]
    nats, places = _rarity(sizes, states["counted"], readings.item())
    first, limit = limits.item(0), limits.item(0) + float(MORE_NATS)
    still, runs = _runs(change, state, channels)
    lasting = state.lasting + LASTING_GAIN * (nats[EVENT] - state.lasting)
    ratios = [each / limit for each in nats]
    at_once = JUMP if ratios[JUMP] > ratios[EVENT] else EVENT
    level = [LASTING_FACTOR * lasting / first, *ratios[1:JUMP]]
    parts = [min(max(part, 0.0), LARGEST_PART) for part in (ratios[at_once], max(level), max(still), 0.0, 0.0)]
    score, scales = max(parts), _scales(x, change, state)
    if score > 1.0 or scales is None:
        return None

    # it is usual: from here on it is taken in
    reason = parts.index(score)
    kinds.append(nats_of_jumps)
    strange = (kinds[at_once], kinds[level.index(max(level))], still, [0.0] * channels, [0.0] * channels)[reason]
    ahead = [forecasts[0] for forecasts in due]
    judged = Judged(
        np.array([score]),
        np.array([reason]),
        shares(np.array([strange])),
        np.array([parts]),
        np.array([[place - expected for place, expected in zip(x, ahead, strict=True)]]),
        None,
        None,
        np.zeros((1, channels)),
    )
    counted = states["counted"][0]
    counted *= FADING
    for kind, place in enumerate(places):
        counted[kind, int(place)] += ONE
    take_interval(states, elapsed_ms)
    mid = [origin + expected for origin, expected in zip(state.origin, ahead, strict=True)]
    layout, record = state.layout, state.record
    counts = [count + 1 for count in state.count]
    layout.misses.pack_into(record, layout.misses_at, *missed, *surprise, lasting)
    layout.runs.pack_into(record, layout.runs_at, *runs, *jumps, *lasts)
    layout.counts.pack_into(record, layout.count_at, *counts, *state.moves)
    layout.places.pack_into(record, layout.places_at, *row, *state.origin, *scales)
    features = _features(x, change, counts, states, timestamps_ms, now, state)
    return Reading(judged, np.array([mid]), np.array([usual]), features)


def _plain(row: list[float], x: list[float], state: _State, channels: int) -> bool:
    """Whether the values are within their ranges, and cannot stand for missing ones."""
    center, spread, low, high = (
        state.scales[at * channels : (at + 1) * channels] for at in (CENTER, SPREAD, LOW, HIGH)
    )
    for c, place in enumerate(x):
        if not -LARGEST_VALUE < row[c] < LARGEST_VALUE:
            return False
        if abs(row[c]) >= LEAST_CODE and abs(place - center[c]) > NEARLY * CODE_FAR * spread[c]:
            return False
        wide = high[c] - low[c]
        if max(place - high[c], low[c] - place) > NEARLY * RANGE_MARGIN * wide and wide > 0:
            return False
    return True


def _least(states: Records, state: _State, channels: int) -> tuple[list[float], list[float]]:
    """What a miss, and what a straying, are at least taken for."""
    steps = (STEP_FLOOR * states["step"][0]).tolist()  # in float32, as there
    reach = [SPREAD_FLOOR * each for each in state.scales[REACH * channels :]]
    fuzz = [RESOLUTION * abs(origin) for origin in state.origin]
    least = [max(pair) + more + TINY for *pair, more in zip(reach, steps, fuzz, strict=True)]
    return least, [each + more + TINY for each, more in zip(reach, fuzz, strict=True)]


def _surprise(
    x: list[float],
    change: list[float],
    due: list[list[float]],
    least: list[float],
    states: Records,
    now: Times,
    state: _State,
) -> tuple[list[float], list[float], list[float], list[float]]:
    """Of each channel: a after the reading, how far it jumped, the mean miss before; and the misses to be kept."""
    table, visits = states["table"][now.bin][0].tolist(), states["visits"][now.bin][0].tolist()
    table_miss, tried = states["table_miss"][now.day][0].tolist(), states["tried"][now.day][0].tolist()
    off: list[float] = []
    jump, before, miss = [], [], list(state.miss)
    misses = [count + 1 for count in state.misses]
    for c, place in enumerate(x):
        bound = least[c]
        for at, expected in enumerate(due[c], 5 * c):
            error, mean = abs(place - expected), miss[at]
            usual = mean if mean > bound else bound
            off.append(min(error / usual, LARGEST_MISS))
            miss[at] = mean + (min(error, LARGEST_LESSON * usual) - mean) / misses[at]
        at = 5 * c + 4
        usual = max(state.miss[5 * c], bound)
        before.append(max(usual, TINY))
        jump.append(min(off[-4], abs(change[c]) / usual))
        if tried[c] >= BINS and visits[c] > 0:  # the table's misses are kept elsewhere
            misses[at] -= 1
            off.append(min(abs(place - table[c]) / max(table_miss[c], bound), LARGEST_MISS))
        else:
            error, mean = abs(place - (state.last[c] - state.origin[c])), miss[at]
            usual = max(mean, bound)
            off.append(min(error / usual, LARGEST_MISS))
            miss[at] = mean + (min(error, LARGEST_LESSON * usual) - mean) / min(float(misses[at]), TABLE_READINGS)
    nats = nats_of(np.array(off)).tolist()
    surprise = []
    for c, mean in enumerate(state.surprise):
        one, three, ten, thirty, seasonal = nats[5 * c : 5 * c + 5]
        u = ((one + three + ten + thirty) / 4 + seasonal) / 2
        surprise.append(mean + EVENT_GAIN * (u - mean))
    return surprise, jump, before, [*miss, *misses]


def _strayed(
    x: list[float], change: list[float], floor: list[float], state: _State
) -> tuple[list[float], list[float], list[float]]:
    """How strange each channel's level and activity are; and the fields to be kept."""
    c = len(x)
    level, home, drift, activity, usual, unrest = (list(state.lasts[at : at + c]) for at in range(0, 6 * c, c))
    far, ratios = [], []
    gains = [1.0 / min(max(count, SETTLING), HOME_READINGS) for count in state.count]
    for at, place in enumerate(x):
        gain, least = gains[at], floor[at]
        strays = max(drift[at], least)
        wide = LEVEL_CLIP * strays
        level[at] += GAIN * min(max(place - level[at], -wide), wide)
        away = level[at] - home[at]
        off, wide = abs(away), HOME_CLIP * strays
        home[at] += gain * min(max(away, -wide), wide)
        drift[at] += gain * (min(off, SCALE_CLIP * strays) - drift[at])
        far.append(min(off / strays, FARTHEST_LEVEL))

        leap, scale = abs(change[at]), max(usual[at], least)
        activity[at] += GAIN * (min(leap, CHANGE_CLIP * max(scale, activity[at])) - activity[at])
        ratios.append(max(activity[at], QUIETEST * scale) / scale)
        usual[at] += gain * (min(leap, CHANGE_CLIP * scale) - usual[at])
    lively = []
    for at, logarithm in enumerate(np.log(np.array(ratios)).tolist()):
        ratio, usually = abs(logarithm), max(unrest[at], LEAST_UNREST)
        unrest[at] += gains[at] * (min(ratio, SCALE_CLIP * usually) - unrest[at])
        lively.append(min(ratio / usually, FARTHEST_LIVELY))
    return far, lively, [*level, *home, *drift, *activity, *usual, *unrest]


def _jumps(size: list[float], missed: list[float], state: _State) -> tuple[list[float], list[float]]:
    """Nats of each channel's jump; and the fields to be kept."""
    c = len(size)
    edge, excess, jumps = (list(state.jumps[at : at + c]) for at in range(0, 3 * c, c))
    nats = [0.0] * c
    for at, z in enumerate(size):
        forecasts = missed[5 * (c + at)]
        gain = max(LEAST_GAIN, 2.0 / (forecasts + 1.0))
        if z > edge[at]:
            e = float(np.log(z / edge[at]))
            weight = jumps[at] + PRIOR
            if forecasts >= SETTLING_READINGS:
                nats[at] = LOG_EDGE + weight * float(np.log1p(e / (weight * excess[at])))
            jumps[at] = min(jumps[at] + 1.0, MOST_JUMPS)
            excess[at] += (min(e, LARGEST_EXCESS * excess[at]) - excess[at]) / (jumps[at] + PRIOR)
            edge[at] *= float(np.exp(min(gain, e)))
        edge[at] = max(edge[at] * (1.0 - gain / EDGE_READINGS), 1.0)
    return nats, [*edge, *excess, *jumps]


def _rarity(sizes: list[float], counted: NDArray[np.float32], n: int) -> tuple[list[float], list[float]]:
    """Nats and places among the counters (1, KINDS, COUNTERS) of the sizes of all kinds."""
    counters = counted[0, :JUMP]
    totals = np.add.reduce(counters, 1, np.float64).tolist()
    below = np.add.accumulate(counters, 1, np.float64)
    logarithms = np.log(np.array([max(size, 1e-9) / LEAST for size in sizes[:JUMP]])).tolist()
    places = [min(max(logarithm / RATIO, 0.0), COUNTERS - 1.001) for logarithm in logarithms]
    z = np.array([3 * size for size in sizes[:JUMP]])
    known = [n / (n + young) for young in YOUNG]
    tail = np.exp(np.maximum((np.log1p(z + z * z / 2) - z) * known, -60.0)).tolist()
    rare = []
    for kind, place in enumerate(places):
        at = int(place)
        larger = max(totals[kind] - below.item(kind, at) + (1 - place % 1) * counters.item(kind, at), 0.0)
        rare.append((PRIOR_READINGS * tail[kind] + larger) / (PRIOR_READINGS + totals[kind]))
    nats = (-np.log(np.array(rare))).tolist()
    nats[1:] = [min(each, MOST_NATS * size) for each, size in zip(nats[1:], sizes[1:JUMP], strict=True)]
    if not sizes[JUMP]:
        return [*nats, 0.0], [*places, 0.0]
    jump, place_of_jump = jump_rarity(np.array(sizes[JUMP:]), counted[:, JUMP])
    return [*nats, jump.item()], [*places, place_of_jump.item()]


def _runs(change: list[float], state: _State, channels: int) -> tuple[list[float], list[int]]:
    """How long each channel has stood still, in units of what is usual for it; and the runs to be kept."""
    factors = [1.0] * channels
    if channels > 1:
        rests = [1.0 - changes / count for changes, count in zip(state.changes, state.count, strict=True)]
        factors = (channels ** np.array(rests)).tolist()
    still, changes, longest = list(state.still), list(state.changes), list(state.longest_still)
    strange = []
    for c, changed in enumerate(change):
        limit = RUN_MARGIN * longest[c] * factors[c] + RUN_ALLOWANCE
        if changed == 0.0:
            still[c] += 1
        else:
            longest[c] = max(longest[c], still[c])
            still[c] = 0
            changes[c] += 1
        strange.append(min(still[c] / limit, MOST_OF_RUNS) if still[c] <= limit + APART_READINGS else 0.0)
    longest_absent = map(max, state.longest_absent, state.absent)
    return strange, [*still, *[0] * channels, *longest, *longest_absent, *changes]


def _scales(x: list[float], change: list[float], state: _State) -> list[float] | None:
    """The running scales after the reading; None where an origin is to move."""
    c = len(x)
    center, spread, step, recent, low, high, reach = (list(state.scales[at : at + c]) for at in range(0, 7 * c, c))
    for at, place in enumerate(x):
        gain = 1.0 / min(state.count[at] + 1, SCALE_READINGS)
        by_spread, by_step = spread[at], step[at]
        if not low[at] <= place <= high[at]:
            wild = RANGE_GROWTH * max(high[at] - low[at], by_spread)
            low[at] -= min(max(low[at] - place, 0.0), wild)
            high[at] += min(max(place - high[at], 0.0), wild)
        away = place - center[at]
        far, wide = abs(away), 4 * by_spread
        reach[at] = max(reach[at], min(far, 10 * by_spread))
        center[at] += gain * min(max(away, -wide), wide)
        spread[at] += gain * (1.25 * min(far, 6 * by_spread) - by_spread)
        step[at] += gain * (min(abs(change[at]), 8 * by_step) - by_step)
        off = abs(center[at])
        spread[at] = max(spread[at], SPREAD_FLOOR * reach[at] + RESOLUTION * off + TINY)
        step[at] = max(step[at], STEP_FLOOR * spread[at])
        recent[at] += RECENT_GAIN * (place - recent[at])
        if off > FAR * spread[at] and off > 2 * abs(place - center[at]):
            return None
    return [*center, *spread, *step, *recent, *low, *high, *reach]


def _features(
    x: list[float],
    change: list[float],
    counts: list[int],
    states: Records,
    timestamps_ms: NDArray[np.int64],
    now: Times,
    state: _State,
) -> NDArray[np.float32]:
    """Take the time of day in; what the network is shown, (1, C, FEATURES)."""
    c = len(x)
    kept = state.layout.scales.unpack_from(state.record, state.layout.scales_at)  # as float32 has them
    center, spread, step, recent = (kept[at : at + c] for at in range(0, 4 * c, c))
    _take_time_of_day(x, center, spread, states, timestamps_ms, now)
    interval_ms = states["interval_ms"]
    then = times_of(timestamps_ms + np.maximum(interval_ms, 0).astype(np.int64))
    table, visits = states["table"][then.bin][0].tolist(), states["visits"][then.bin][0].tolist()
    tried = states["tried"][then.day][0].tolist()
    known, offsets, ratios = [], [], []
    for at, place in enumerate(x):
        known.append(tried[at] >= BINS and visits[at] > 0)
        next_off = table[at] - place if known[at] else place - place
        wide, high = max(spread[at], TINY), max(step[at], TINY)
        offsets += [(place - center[at]) / wide, change[at] / high, (place - recent[at]) / high, next_off / wide]
        offsets.append(next_off / high)
        ratios.append(high / wide)
    shown = np.arcsinh(np.array(offsets)).reshape(c, 5)
    angle = (2 * np.pi / DAY_MS) * (timestamps_ms.item() % DAY_MS)
    features = np.empty((1, c, FEATURES), np.float32)
    features[0, :, :2] = shown[:, :2]
    features[0, :, 2] = np.log(np.array(ratios))
    features[0, :, 3:5] = shown[:, 2:4]
    features[0, :, 5] = shown[:, 4] * 0.2
    features[0, :, 6] = known
    features[..., 7] = np.sin(angle)
    features[..., 8] = np.cos(angle)
    features[..., 9] = 0.0
    features[0, :, 10] = np.log(np.array([min(count, OLDEST_READINGS) + 1.0 for count in counts])) / 7
    return features


def _take_time_of_day(
    x: list[float],
    center: tuple[float, ...],
    spread: tuple[float, ...],
    states: Records,
    timestamps_ms: NDArray[np.int64],
    now: Times,
) -> None:
    """Write what the reading teaches the table of the day."""
    table, visits = states["table"][now.bin], states["visits"][now.bin]
    table_miss, tried = states["table_miss"][now.day], states["tried"][now.day]
    gain = TABLE_GAIN * min(states["interval_ms"].item() / BIN_MS, 1.0)
    held = timestamps_ms.item() - states["first_ms"].item() >= DAYS_BACK[now.weekday] * DAY_MS
    entries, visited, misses, tries = (each[0].tolist() for each in (table, visits, table_miss, tried))
    for at, place in enumerate(x):
        visited[at] = min(visited[at] + 1, MOST_VISITS)
        again, wide = visited[at] > 1, 10 * spread[at]
        entry = entries[at] if again else center[at]
        off = min(max(place - entry, -wide), wide)
        entries[at] = entry + max(1.0 / visited[at], gain) * off
        if held and again:
            tries[at] = min(tries[at] + 1, TRIED_READINGS)
            misses[at] += (abs(off) - misses[at]) / tries[at]
    table[0], visits[0] = entries, visited
    table_miss[0], tried[0] = misses, tries
