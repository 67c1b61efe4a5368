"""Many usual readings of one stream at once: what score.py and features.py say of one after the other, to the bit.

A recording is known as a whole. What of a reading does not hang on the state (places, times, logarithms, pooled sizes)
is reckoned in columns of all rows; the running means, each of which needs the one before, are led through the rows one
kind after the other (columns.py). The order is that of what needs what: times, scales, table, features, network,
misses, levels, jumps. None of these hangs on the score. The counters do: what is anomalous within an incident counts
less. They are taken as if nothing was, and from the first reading that was on anew.

The rules are those of the modules named above, where they are explained; a test holds both to each other. What is not
usual (a channel is young, a clock has stepped, an origin moves) ends the rows that are taken, and is left to them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import NORMAL, WARMING_UP, Step, float32
from gatewatch.models.detectors.general import columns
from gatewatch.models.detectors.general.alert_budget import (
    REST_READINGS,
    comes_again,
    earned,
    joined,
    note_alerts,
    paced,
    threshold_at,
    young_thresholds,
)
from gatewatch.models.detectors.general.codes import CODES
from gatewatch.models.detectors.general.codes import FAR as CODE_FAR
from gatewatch.models.detectors.general.features import (
    BIN_MS,
    BINS,
    CENTER,
    DAY_MS,
    DAYS_BACK,
    FAR,
    HIGH,
    HORIZONS,
    LARGEST_VALUE,
    LOW,
    MONDAY,
    REACH,
    RECENT_GAIN,
    RESOLUTION,
    SATURDAY,
    SCALE_READINGS,
    SPREAD,
    SPREAD_FLOOR,
    STEP,
    STEP_FLOOR,
    TINY,
    UNCLIPPED,
    interval_after,
    shown,
)
from gatewatch.models.detectors.general.jumps import LEAST_GAIN
from gatewatch.models.detectors.general.lone import SURELY_NO_GAP
from gatewatch.models.detectors.general.reading import Rules
from gatewatch.models.detectors.general.score import (
    DUE,
    EVENT,
    EVENT_GAIN,
    FORECAST_LIMIT,
    JUMP,
    KINDS,
    LARGEST_LESSON,
    LARGEST_MISS,
    LARGEST_PART,
    LASTING,
    LASTING_FACTOR,
    LASTING_GAIN,
    MORE_NATS,
    MOST_OF_RUNS,
    RANGE,
    RANGE_ALERT_READINGS,
    RANGE_MARGIN,
    RANGE_NEWS,
    RANGE_READINGS,
    RANGE_SLOPE,
    TABLE_READINGS,
    _alone,
    nats_at,
    nats_of,
)
from gatewatch.models.detectors.general.shifts import (
    FARTHEST_LEVEL,
    FARTHEST_LIVELY,
    HOME_READINGS,
    QUIETEST,
    SETTLING,
    SETTLING_LIVELY,
)
from gatewatch.models.detectors.general.tail import COUNTED_READINGS, COUNTERS, LEAST, LEAST_JUMP, _place, count
from gatewatch.models.detectors.general.youth import AS_OLD, BEHIND
from gatewatch.models.detectors.incidents import JOIN_READINGS, MOST_READINGS, calms, conclude
from gatewatch.models.detectors.operands import ARRAYS, NUMBERS
from gatewatch.models.detectors.trained.score import APART_READINGS, RUN_ALLOWANCE, RUN_MARGIN, Judged, pool, shares
from gatewatch.models.record_fields import load, store

Float64Array = NDArray[np.float64]
Records = NDArray[Any]

MOST_ROWS = 512
"""Taken at once: 6 MB, of eight channels."""

FIRST_TRY = 8
"""Rows that are counted at once after one that counted less; doubled as long as none does."""

_SCALES = ("center", "spread", "step", "recent", "low", "high", "reach")
_NUMBERS = NUMBERS._replace(exp=lru_cache(NUMBERS.exp))
"""The pace takes few powers."""

_SINGLE = struct.Struct("<f")


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
    if not _is_usual(states):
        return None
    rows = _Rows(values[:MOST_ROWS], timestamps_ms[:MOST_ROWS], states, rules)
    if not rows.lead_scales():
        return None
    rows.lead_table()
    rows.look_ahead(network, tensors)
    rows.judge_channels()
    return rows.judge()


def _is_usual(states: Records) -> bool:
    """Whether all channels are known, none ends its first lesson, and the clock has not stepped."""
    state = states[0]
    counts, readings = state["count"], int(state["readings"])
    if not SETTLING_LIVELY <= counts.min() <= counts.max() <= readings < MOST_READINGS - MOST_ROWS:
        return False
    if state["misses"].min() == 0 or state["before_ms"] or state["leapt"] or (state["moves"] == UNCLIPPED).any():
        return False
    return all(np.isfinite(state[name]).all() for name in states.dtype.names or () if state[name].dtype.kind == "f")


def _single(number: float) -> float:
    """As a state keeps it, in float32."""
    return float(_SINGLE.unpack(_SINGLE.pack(number))[0])


class _Rows:
    """The rows, column by column; T of them, C channels."""

    def __init__(self, values: Float64Array, timestamps_ms: NDArray[np.int64], states: Records, rules: Rules) -> None:
        self.states, self.state, self.rules = states, states[0], rules
        self.channels, self.n0 = values.shape[1], int(states["readings"][0])
        self.free = self.state["moves"] <= UNCLIPPED
        self.origin = self.state["origin"].astype(np.float64)
        self._see(values, timestamps_ms)
        self._cut(self._take_times())

    def _see(self, values: Float64Array, timestamps_ms: NDArray[np.int64]) -> None:
        """Values, changes and counts; and how many rows are plain."""
        observed = np.isfinite(values)
        at = np.maximum.accumulate(np.where(observed, np.arange(1, len(values) + 1)[:, None], 0), axis=0)
        x = np.concatenate([self.state["last"][None], values])[at, np.arange(self.channels)]
        last = np.concatenate([self.state["last"][None], x[:-1]])
        self.observed, self.x, self.change = observed, x - self.origin, x - last
        self.before, self.values, self.times = last - self.origin, x, timestamps_ms
        counts = np.cumsum(np.concatenate([self.state["count"][None].astype(np.int64), observed]), axis=0)
        self.count, self.count_after = counts[:-1], counts[1:]
        self._count_runs()
        absences = np.maximum(self.absent, self.longest_absent)
        here = self.count + np.concatenate([
            np.maximum(self.state["absent"], self.state["longest_absent"])[None], absences[:-1]
        ])  # fmt: skip
        plain = observed.any(axis=1) & (np.abs(x) < LARGEST_VALUE).all(axis=1)
        plain &= ~np.isinf(values).any(axis=1) & ~(self.free & (self.change != 0)).any(axis=1)
        plain &= here.min(axis=1) + BEHIND >= AS_OLD * here.max(axis=1)
        self._cut(len(plain) if plain.all() else int(plain.argmin()))

    def _count_runs(self) -> None:
        """Readings since each channel last changed and was last seen, and the longest such runs, after each row."""
        rows = np.arange(1, len(self.observed) + 1)[:, None]
        same = self.observed & (self.change == 0)
        self.moved = self.observed & (self.change != 0)
        stood = np.cumsum(same, axis=0)
        at = np.maximum.accumulate(np.where(self.moved, rows, 0), axis=0)
        until = np.take_along_axis(np.concatenate([np.zeros((1, self.channels), np.int64), stood]), at, axis=0)
        self.still = stood - until + np.where(at == 0, self.state["still"].astype(np.int64), 0)
        seen = np.maximum.accumulate(np.where(self.observed, rows, 0), axis=0)
        self.absent = rows - seen + np.where(seen == 0, self.state["absent"].astype(np.int64), 0)
        self.longest_still = self._longest("still", self.still, self.moved)
        self.longest_absent = self._longest("absent", self.absent, self.observed)
        self.changes = np.cumsum(self.moved, axis=0) + self.state["changes"].astype(np.int64)

    def _longest(self, name: str, runs: NDArray[np.int64], ended: NDArray[np.bool_]) -> NDArray[np.int64]:
        """(T, C) the longest runs that have ended."""
        before = np.concatenate([self.state[name][None].astype(np.int64), runs[:-1]])
        longest = np.maximum.accumulate(np.where(ended, before, 0), axis=0)
        return np.asarray(np.maximum(longest, self.state[f"longest_{name}"].astype(np.int64)))

    def _take_times(self) -> int:
        """Intervals and pace after each row; how many rows come as usual."""
        state, of = self.state, _NUMBERS
        last, interval = int(state["last_ms"]), float(state["interval_ms"])
        between, pace = float(state["between_ms"]), float(state["pace_ms"])
        most, found = self.count.max(axis=1).tolist(), []
        for n, (now, known) in enumerate(zip(self.times.tolist(), most, strict=True), start=self.n0):
            elapsed = float(now - last)
            if not 0 <= elapsed < SURELY_NO_GAP * interval:
                break
            interval = _single(interval_after(of, interval, elapsed, known))
            between, pace = map(_single, paced(of, between, pace, elapsed, n))
            found.append((interval, between, pace))
            last = now
        clock = np.array(found).reshape(-1, 3)
        self.interval, self.between, self.pace = clock.T
        return len(found)

    def _cut(self, rows: int) -> None:
        """Leave the rows from there on out."""
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray) and name in _COLUMNS:
                setattr(self, name, column[:rows])
        self.rows = rows

    def lead_scales(self) -> bool:
        """The running scales; whether there is a row before an origin moves."""
        if not self.rows:
            return False
        gain = self.observed / np.maximum(np.minimum(self.count_after, SCALE_READINGS), 1.0)
        kept = np.stack([self.state[name] for name in _SCALES])
        self.leap = np.abs(self.change)
        found, reckoned = columns.lead_scales(
            kept, self.x, self.leap, gain, self.observed * RECENT_GAIN, self.free, self.observed
        )
        center, spread = reckoned[:, 0], reckoned[:, 1]
        off = np.abs(center)
        gone = ((off > FAR * spread) & (off > 2 * np.abs(self.x - center))).any(axis=1)
        middle, wide = found[:-1, CENTER], found[:-1, SPREAD]
        far = np.abs(self.values - self.origin - middle) > CODE_FAR * wide
        gone |= (far & np.isin(self.values, CODES)).any(axis=1)
        self._cut(int(gone.argmax()) if gone.any() else self.rows)
        self.scales32 = found[: self.rows + 1]
        self.scales = self.scales32.astype(np.float64)
        return self.rows > 0

    def lead_table(self) -> None:
        """What the time of day lets expect."""
        weekday = (self.times // DAY_MS + MONDAY) % 7
        first_ms, back = int(self.state["first_ms"]), DAYS_BACK[weekday] * DAY_MS
        wide = np.where(self.free, np.inf, 10 * self.scales[1:, SPREAD])
        ahead = self.times + np.maximum(self.interval, 0).astype(np.int64)
        self.table = columns.lead_table(
            self.states, _places(self.times), _places(ahead), self.x, self.observed, self.scales[1:, CENTER],
            wide, self.interval, self.times - first_ms >= back,
        )  # fmt: skip

    def look_ahead(self, network: Network, tensors: Mapping[str, tuple[int, ...]]) -> None:
        """What the network is shown, and forecasts."""
        features = self._features()
        feed = {name: self.state[name].copy() for name in tensors}
        forecast = np.empty((self.rows, self.channels, len(HORIZONS)), np.float32)
        for row, out in zip(features, forecast, strict=True):
            feed["x"] = row
            mean, after = network.step(feed)
            out[:] = mean
            feed.update(zip(tensors, after, strict=True))
        for name in tensors:
            self.state[name][:] = feed[name]
        steps = np.minimum(np.maximum(forecast, -FORECAST_LIMIT), FORECAST_LIMIT)
        step = self.scales32[1:, STEP]
        ahead = (self.x[..., None] + step[..., None] * steps.astype(np.float64)).astype(np.float32)
        self.due = np.empty((self.rows, self.channels, len(HORIZONS)))
        kept = self.state["ahead"]
        turns = np.arange(self.n0, self.n0 + self.rows)
        for h, horizon in enumerate(HORIZONS):
            self.due[:, :, h] = kept[:, DUE[turns % len(DUE), h]].T
            self.due[horizon:, :, h] = ahead[: max(self.rows - horizon, 0), :, h]
            latest = turns[-horizon:]
            kept[:, DUE[latest % len(DUE), h]] = ahead[-horizon:, :, h].T

    def _features(self) -> NDArray[np.float32]:
        x, table = self.x, self.table
        scales = self.scales[1:].swapaxes(0, 1)
        expected = np.where(table.next_known, table.next_entry, x)
        return shown(x, self.change, scales, expected, table.next_known, self.times, self.observed, self.count_after)

    def judge_channels(self) -> None:
        """How strange each channel is by itself: (KINDS, T, C)."""
        scales, origin = self.scales[:-1], RESOLUTION * np.abs(self.origin)
        reach = SPREAD_FLOOR * scales[:, REACH]
        self.least = np.maximum(reach, STEP_FLOOR * self.scales32[:-1, STEP]) + origin + TINY
        floor = reach + origin + TINY
        seen = self.observed.astype(np.float64)
        self.kinds = np.empty((KINDS, self.rows, self.channels))
        jump = self._miss(seen)
        self._stray(floor, seen)
        self.kinds[:JUMP] /= self.channels**0.25
        forecasts = self.misses[:, :, 0]
        gain = self.observed * np.maximum(LEAST_GAIN, 2.0 / (forecasts + 1.0))
        self.kinds[JUMP] = columns.lead_jumps(self.states, jump, self.observed, gain, forecasts)
        self.state["misses"] = self.misses[-1]

    def _miss(self, seen: Float64Array) -> Float64Array:
        """Misses of forecasts and table; gives sizes of jumps."""
        state, table = self.state, self.table
        expected = np.concatenate([self.due, np.where(table.known, table.entry, self.before)[..., None]], axis=2)
        error = np.where(self.observed[..., None], np.abs(self.x[..., None] - expected), 0.0)
        told = np.repeat(self.observed[..., None], expected.shape[2], axis=2)
        told[..., -1] &= ~table.known
        self.misses = np.cumsum(told, axis=0) + state["misses"].astype(np.int64)
        memory = np.maximum(self.misses, 1).astype(np.float64)
        memory[..., -1] = np.minimum(memory[..., -1], TABLE_READINGS)
        most = np.where(self.free, np.inf, LARGEST_LESSON)
        miss, usual = columns.lead_misses(state["miss"], error, told, memory, self.least, most, table.known, table.off)
        off = np.minimum(error / usual, LARGEST_MISS)
        nats = nats_of(off) * self.observed[..., None]
        jump = np.minimum(off[..., 0], self.leap / usual[..., 0]) * self.observed
        u = np.add.reduce(nats[..., : len(HORIZONS)], 2)
        u /= np.maximum(len(HORIZONS) * self.observed, 1)
        u += nats[..., -1]
        u /= 2
        kept, surprise = columns.lead_means(state["surprise"], u, EVENT_GAIN, seen)
        self.usual = np.maximum(np.maximum(miss[:-1, :, 0], self.least), TINY)
        self.kinds[EVENT] = surprise * self.observed
        state["miss"], state["surprise"] = miss[-1], kept[-1]
        return np.asarray(jump)

    def _stray(self, floor: Float64Array, seen: Float64Array) -> None:
        """How far levels and activities have left what is usual."""
        gain = self.observed / np.minimum(np.maximum(self.count, SETTLING), HOME_READINGS)
        kept = load(self.states, "level", 6)[:, 0].astype(np.float32)
        levels, far = columns.lead_levels(kept[:3], self.x, gain, seen, floor)
        activity, reckoned = columns.lead_activity(kept[3:5], self.leap, gain, seen, floor)
        active, scale = reckoned[:, 0], reckoned[:, 1]
        ratio = np.abs(np.log(np.maximum(active, QUIETEST * scale) / scale))
        unrest, usually = columns.lead_unrest(kept[5], ratio, gain)
        self.kinds[1] = np.minimum(far * self.observed, FARTHEST_LEVEL)
        self.kinds[2] = np.minimum(ratio / usually * self.observed, FARTHEST_LIVELY)
        after = np.concatenate([levels[-1], activity[-1], unrest[-1:]])
        store(self.states, "level", after[:, None].astype(np.float64))

    def judge(self) -> Step:
        """What is said of the rows, and the state after them."""
        self._size()
        state, rows = self.state, self.rows
        status, alert = np.empty(rows, np.uint8), np.zeros(rows, bool)
        warm = self.readings >= self.rules.warm_up
        status[:] = np.where(warm, NORMAL, WARMING_UP)
        self.mid = self.origin + self.due[..., 0]
        self.half = float32(self.rules.rare * self.usual)
        missed = (self.x - self.due[..., 0]) * self.observed
        self.residual = np.minimum(np.maximum(missed / self.usual, -LARGEST_MISS), LARGEST_MISS).astype(np.float32)
        score, reason, parts = np.empty(rows), np.empty(rows, np.int64), np.empty((rows, RANGE + 1))
        attribution = np.empty((rows, self.channels), np.float32)
        start, size, done = 0, rows, 0
        while start < rows:
            stop = min(start + size, rows)
            judged, nats, strange, lasting = self._judge(start, stop)
            score[start:stop], reason[start:stop], parts[start:stop] = judged.score, judged.reason, judged.parts
            attribution[start:stop] = judged.attribution
            rare = nats > self.limit[start:stop]
            size, end = 2 * size, stop
            for at in np.flatnonzero((judged.score > 1.0) | rare.any(axis=1)).tolist():
                row = start + at
                self._pass(done, row)
                done = row + 1
                within = bool(state["calm"] < self.joined[row])
                if judged.score[at] > 1.0:
                    step = self._conclude(row, judged, at, rare[at], strange, within=within)
                    status[row], alert[row] = step.status[0], step.alert[0]
                else:
                    self._pass(row, done)
                if within and rare[at].any():  # what is held counts less: all behind it is counted anew
                    self._count_less(row, rare[at])
                    end, size = row + 1, FIRST_TRY
                    break
            state["lasting"] = lasting[end - start]
            start = end
        self._pass(done, rows)
        self._keep()
        return Step(
            score=float32(score), status=status, reason=reason.astype(np.uint8), alert=alert, mid=self.mid,
            half=self.half, residual=self.residual, attribution=attribution, parts=parts, states=self.states,
        )  # fmt: skip

    def _size(self) -> None:
        """Pooled sizes, their places, thresholds by the pace, and what is strange whatever was counted."""
        alerts, pace = self.rules.alerts_per_week, np.concatenate([[float(self.state["pace_ms"])], self.pace[:-1]])
        self.readings = np.arange(self.n0, self.n0 + self.rows)
        threshold = threshold_at(ARRAYS, alerts, pace)
        self.thresholds = young_thresholds(threshold, self.readings)
        self.joined = np.atleast_1d(joined(threshold, JOIN_READINGS))
        self.limit = self.thresholds[:, :1] + MORE_NATS
        self.sizes = np.empty((self.rows, KINDS))
        self.sizes[:, :JUMP], self.sizes[:, JUMP] = pool(self.kinds[:JUMP]).T, self.kinds[JUMP].max(axis=1)
        self.places = np.zeros(self.sizes.shape)
        self.places[:, :JUMP] = _place(self.sizes[:, :JUMP], LEAST)
        jumped = np.flatnonzero(self.sizes[:, JUMP])
        self.places[jumped, JUMP] = _place(self.sizes[jumped, JUMP], LEAST_JUMP)
        self.counted = np.empty((self.rows + 1, KINDS, COUNTERS), np.float32)
        self.counted[0] = self.state["counted"]
        self.strange = np.empty((RANGE + 1, self.rows, self.channels))
        self._find_runs()
        self._find_outside()

    def _find_runs(self) -> None:
        """How long channels stand still and are missing, in units of what is usual."""
        state = self.state
        before = [np.concatenate([state[name][None].astype(np.int64), after[:-1]]) for name, after in (
            ("longest_still", self.longest_still), ("longest_absent", self.longest_absent), ("changes", self.changes),
        )]  # fmt: skip
        limits = _limits(np.stack(before[:2]).astype(np.float64), before[2], self.count)
        runs = np.stack([self.still, self.absent]).astype(np.float64)
        strange = self.strange[2:4]
        np.divide(runs, limits, out=strange)
        strange *= runs <= limits + APART_READINGS
        strange[0] *= ~self.free
        np.minimum(strange, MOST_OF_RUNS, out=strange)

    def _find_outside(self) -> None:
        """How strange it is to be outside of the range so far."""
        low, high = self.scales[:-1, LOW], self.scales[:-1, HIGH]
        wide = high - low
        excess = np.maximum(self.x - high, low - self.x) / np.maximum(wide, 1e-30)
        outside = self.observed & (wide > 0) & (excess > RANGE_MARGIN)
        slope = RANGE_SLOPE * (self.readings / (self.readings + RANGE_READINGS))[:, None]
        nats = np.log(np.maximum(self.count / (2.0 * self.channels), 1e-9)) + slope * np.minimum(excess, 10.0)
        self.strange[RANGE] = np.where(outside, np.maximum(nats, 0.0), 0.0) / self.thresholds[:, 1:]
        self.excess = np.where(outside, excess, 0.0)

    def _judge(self, start: int, stop: int) -> tuple[Judged, Float64Array, Float64Array, Float64Array]:
        """Rows that are counted as usual: judged, their nats (n, KINDS), what is strange (5, n, C), and the lasting
        mean before and after each (n + 1,)."""
        some = slice(start, stop)
        self._count(start, stop)
        nats, _ = nats_at(self.sizes[some], self.counted[some], self.readings[some])
        lasting, reckoned = [float(self.state["lasting"])], []
        for each in nats[:, EVENT].tolist():
            mean = lasting[-1] + LASTING_GAIN * (each - lasting[-1])
            reckoned.append(mean)
            lasting.append(_single(mean))
        limit, rows = self.limit[some], np.arange(stop - start)
        lasts = nats / limit
        parts = np.empty((stop - start, RANGE + 1))
        at_once = np.where(lasts[:, JUMP] > lasts[:, EVENT], JUMP, EVENT)
        parts[:, EVENT] = lasts[rows, at_once]
        lasts = lasts[:, :JUMP]
        lasts[:, EVENT] = LASTING_FACTOR * np.array(reckoned) / self.thresholds[some, 0]
        parts[:, LASTING] = np.maximum.reduce(lasts, 1)
        strange = self.strange[:, some].copy()
        strange[EVENT] = self.kinds[:, some][at_once, rows]
        strange[LASTING] = self.kinds[:, some][lasts.argmax(axis=1), rows]
        parts[:, 2:] = np.maximum.reduce(strange[2:], 2).T
        parts = np.minimum(np.maximum(parts, 0.0), LARGEST_PART)
        telling = parts.copy()
        telling[:, LASTING] *= np.maximum.reduce(parts[:, 2:4], 1) <= 1.0
        reason = np.where(parts[:, RANGE] > 1.0, RANGE, telling.argmax(axis=1))
        score = np.maximum.reduce(parts, 1)
        missed = (self.x[some] - self.due[some, :, 0]) * self.observed[some]
        judged = Judged(score, reason, shares(strange[reason, rows]), parts, missed, None, None, self.excess[some])
        return judged, nats, strange, np.array(lasting)

    def _count(self, start: int, stop: int) -> None:
        """The counters after each row, as long as nothing is held."""
        fading, one = np.float32(1 - 1 / COUNTED_READINGS), np.float32(1.0)
        flat = self.counted.reshape(self.rows + 1, -1)
        at = (self.places[start:stop].astype(np.intp) + COUNTERS * np.arange(KINDS)).tolist()
        before = flat[start]
        for after, places in zip(flat[start + 1 : stop + 1], at, strict=True):
            np.multiply(before, fading, out=after)
            for place in places:
                after[place] += one
            before = after

    def _count_less(self, row: int, rare: NDArray[np.bool_]) -> None:
        """The counters after a row that was anomalous within an incident."""
        counted = self.counted[row : row + 1].copy()
        count(self.places[row : row + 1], counted, np.ones(1, bool), rare[None], self.limit[row : row + 1])
        self.counted[row + 1] = counted[0]

    def _pass(self, start: int, stop: int) -> None:
        """Take rows in that were not anomalous, in what says how incidents and their budget stand."""
        rows, state = stop - start, self.state
        if rows <= 0:
            return
        state["rested"] |= int(state["calm"]) + rows - 1 >= REST_READINGS
        calm = calms(self.states)
        calm[:] = np.minimum(calm.astype(np.int64) + rows, JOIN_READINGS)
        state["inside"] = min(int(state["inside"]) + rows, RANGE_ALERT_READINGS)
        state["readings"] += rows
        repeats = float(state["repeats"])
        for pace in self.pace[start:stop].tolist():
            if (after := _single(earned(NUMBERS, repeats, self.rules.alerts_per_week, pace))) == repeats:
                break  # as many as there can be
            repeats = after
        state["repeats"] = repeats

    def _conclude(
        self, row: int, judged: Judged, at: int, rare: NDArray[np.bool_], strange: Float64Array, *, within: bool
    ) -> Step:
        """An anomalous row, as GeneralDetector.advance_together concludes it."""
        states, one, of = self.states, slice(row, row + 1), slice(at, at + 1)
        alone: NDArray[np.bool_] = np.asarray(np.logical_or.reduce(strange[2:, of] > 1.0))
        by_itself = _alone(self.kinds[:, one], self.counted[one], self.readings[one], self.limit[one], rare[None], None)
        alone = alone if by_itself is None else alone | by_itself
        score, parts, excess = judged.score[of], judged.parts[of], judged.signals[of]
        states["pace_ms"] = self.pace[row]
        again = comes_again(states, score, self.rules.alerts_per_week)
        outside = parts[:, RANGE] > 1.0
        worse = outside & (states["inside"] >= RANGE_ALERT_READINGS) & (excess.max(axis=1) > RANGE_NEWS)
        states["inside"] = np.minimum(states["inside"] + 1, RANGE_ALERT_READINGS) * ~outside
        urgent = worse | (not within)
        of_row = Judged(
            score, judged.reason[of], judged.attribution[of], parts, judged.missed[of], alone,
            self._stops(row, strange[2:4, at]), excess,
        )  # fmt: skip
        step = conclude(
            of_row, self.mid[one], self.half[one], self.residual[one], states, self.rules.warm_up, urgent | again
        )
        note_alerts(states, step.alert, step.alert & again & ~urgent)
        return step

    def _stops(self, row: int, strange: Float64Array) -> NDArray[np.bool_]:
        """(1,) whether a channel begins to stand still, or to be missing, beyond its limit."""
        longest = np.stack([self.longest_still[row], self.longest_absent[row]]).astype(np.float64)
        limits = _limits(longest, self.changes[row], self.count[row])
        runs = np.stack([self.still[row], self.absent[row]]) * (strange > 0.0)
        return np.asarray(((runs > limits) & (runs - 1 <= limits)).any()).reshape(1)

    def _keep(self) -> None:
        """Write what the rows have taught into the state, but what was written on the way."""
        state = self.state
        state["last_ms"], state["interval_ms"] = self.times[-1], self.interval[-1]
        state["between_ms"], state["pace_ms"] = self.between[-1], self.pace[-1]
        state["count"], state["last"], state["counted"] = self.count_after[-1], self.values[-1], self.counted[-1]
        kept = dict(zip(_SCALES, self.scales32[-1], strict=True))
        for name, field in {**kept, **self.table.fields}.items():
            state[name] = field
        for name in ("still", "absent", "longest_still", "longest_absent", "changes"):
            state[name] = getattr(self, name)[-1]
        taught = np.flatnonzero(self.free & self.observed.any(axis=0))
        state["lesson"][taught, state["moves"][taught]] = state["last"][taught]


def _limits(longest: Float64Array, changes: NDArray[Any], counts: NDArray[Any]) -> Float64Array:
    """(2, ..., C) the most readings that channels may stand still and be missing; see score._run_limits."""
    limits = RUN_MARGIN * longest
    channels = longest.shape[-1]
    if channels > 1:
        limits[0] *= channels ** (1.0 - changes / np.maximum(counts, 1))
    limits += RUN_ALLOWANCE
    return np.asarray(limits)


def _places(timestamps_ms: NDArray[np.int64]) -> columns.Places:
    weekday = (timestamps_ms // DAY_MS + MONDAY) % 7
    day = (weekday >= SATURDAY) * 1
    return columns.Places((day * BINS + timestamps_ms % DAY_MS // BIN_MS).tolist(), day.tolist())


_COLUMNS = frozenset(
    {
        *("observed", "x", "change", "before", "values", "times", "count", "count_after", "leap"),
        *("moved", "still", "absent", "longest_still", "longest_absent", "changes", "interval", "between", "pace"),
    }
)
"""Of `_Rows`, those that are there before it is known how many rows are usual."""
