"""One reading of one stream, in numbers: what score.py says of arrays, to the bit, in a third of the time.

A numpy operation costs the same for one number as for fifty. Here each channel is reckoned in Python numbers; numpy is
asked for sums and logarithms, whose last bits no other library has. The rules are those of score.py, where they are
explained; a test holds both to each other. A state or a value that is not finite is left to score.py.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import LARGEST_SCORE, NORMAL, WARMING_UP, Step
from gatewatch.models.detectors.incidents import JOIN_READINGS, MOST_READINGS, conclude
from gatewatch.models.detectors.judged import (
    APART_READINGS,
    RUN_ALLOWANCE,
    RUN_MARGIN,
    Judged,
    just_above,
    shares,
    shares_alone,
)
from gatewatch.models.detectors.operands import NUMBERS
from gatewatch.models.detectors.trained.calibrated import Numbers, ResidualCalibration
from gatewatch.models.detectors.trained.scaling import ELAPSED_LIMITS, STANDARDISED_LIMIT
from gatewatch.models.detectors.trained.score import (
    CHANGE_LIMIT,
    LEAST_LIVELINESS,
    LEVEL_GAIN,
    LEVEL_LIMIT,
    LIVELY_GAIN,
    MISS_LIMIT,
    NOISE_LIMIT,
    PARTS,
    TEACHING_READINGS,
    Floats,
    Records,
    alone_of,
    pooled_of,
)

MOST_CHANNELS = 16
"""With more, arrays are quicker."""

LARGEST = 1e150
"""Of values and deviations whose squares are finite."""


class Rules(NamedTuple):
    """What a detector says of all its streams, by channel in lists.

    Attributes:
        center, spread, interval_s: see Scaling.
        calibration: of the model.
        error_scale: usual errors, standardised units.
        half: (1, C) half width of the band, physical units.
        restart_gap_ms: a longer gap is looked at by models.detectors.clock.
        warm_up: readings that are not judged yet.
        calm_step: what a normal reading counts, see models.detectors.incidents.calm_step.
    """

    center: list[float]
    spread: list[float]
    interval_s: float
    calibration: ResidualCalibration
    error_scale: list[float]
    half: NDArray[np.float32]
    restart_gap_ms: int
    warm_up: int
    calm_step: int


class _Layout:
    """Where a stream's state has its numbers: neighbouring fields, read and written as one."""

    def __init__(self, dtype: np.dtype[Any], channels: int) -> None:
        held: Any = dtype.fields
        c = channels
        self.head, self.head_at = struct.Struct(f"<qq?dI{2 + c}H"), held["last_ms"][1]
        self.score, self.score_at = struct.Struct(f"<{5 + 4 * c}f{c}d{2 * c}I?{2 * c}I"), held["event"][1]


@lru_cache
def _layout(dtype: np.dtype[Any], channels: int) -> _Layout:
    return _Layout(dtype, channels)


class _Judged(NamedTuple):
    """What models.detectors.judged.Judged has, in numbers; and the runs and their limits."""

    score: float
    parts: tuple[float, ...]
    strange: tuple[list[float], ...]
    missed: list[float]
    signals: tuple[float, ...]
    runs: list[int]
    limits: list[float]


def advance_alone(
    values: Floats,
    timestamps_ms: NDArray[np.int64],
    states: Records,
    rules: Rules,
    network: Callable[[dict[str, NDArray[np.float32]], Records], NDArray[np.float32]],
) -> Step | None:
    """`Detector.advance` of one stream; None, and nothing is changed, where arrays have to look at it.

    Args:
        values: (1, C) physical units, NaN where missing.
        timestamps_ms: (1,) Unix time.
        states: (1,) changed in place.
        rules: of the detector.
        network: steps the network in the states by its other inputs, and says the forecast (1, C).
    """
    c, now_ms, row = values.shape[1], timestamps_ms.item(), values[0].tolist()
    layout, record = _layout(states.dtype, c), states.view(np.uint8).data
    last_ms, before_ms, leapt, gap_ms, readings, *calms = layout.head.unpack_from(record, layout.head_at)
    held = layout.score.unpack_from(record, layout.score_at)
    places = [(value - middle) / wide for value, middle, wide in zip(row, rules.center, rules.spread, strict=True)]
    there = list(map(math.isfinite, row))
    wild = any(map(LARGEST.__lt__, map(abs, (*row, *places))))  # NaN is not
    numbers, elapsed_ms = rules.calibration.numbers, now_ms - last_ms
    if before_ms or not 0 <= elapsed_ms <= rules.restart_gap_ms:
        return None
    if numbers is None or wild or not math.isfinite(sum(held[: 5 + 4 * c])):
        return None

    least, most = ELAPSED_LIMITS
    elapsed = NUMBERS.log(max(elapsed_ms, 1) / (1000.0 * rules.interval_s))
    x = [
        min(max(place, -STANDARDISED_LIMIT), STANDARDISED_LIMIT) if seen else 0.0
        for place, seen in zip(places, there, strict=True)
    ]
    shown, observed, passed = ([x], [there], [[min(max(elapsed, least), most)]])
    feed = {name: np.array(of, np.float32) for name, of in (("x", shown), ("observed", observed), ("elapsed", passed))}
    forecast = network(feed, states)[0].tolist()
    found, kept = _judged(row, places, there, forecast, held, rules.calibration, numbers)
    layout.score.pack_into(record, layout.score_at, *kept)
    clock = (now_ms, before_ms, leapt, gap_ms)
    mid = np.array(
        [[each * wide + middle for each, wide, middle in zip(forecast, rules.spread, rules.center, strict=True)]]
    )
    residual = np.array(
        [
            [
                min(max(off / usual, -LARGEST_SCORE), LARGEST_SCORE)
                for off, usual in zip(found.missed, rules.error_scale, strict=True)
            ]
        ],
        np.float32,
    )
    if found.score > 1.0:
        layout.head.pack_into(record, layout.head_at, *clock, readings, *calms)
        judged = _in_arrays(found, states, rules.calibration)
        return conclude(judged, mid, rules.half, residual, states, rules.warm_up, step=rules.calm_step, again=True)
    calmer = [min(calm + rules.calm_step, JOIN_READINGS) for calm in calms]
    layout.head.pack_into(record, layout.head_at, *clock, readings + (readings < MOST_READINGS), *calmer)
    reason = found.parts.index(max(found.parts))
    return Step(
        score=np.array([found.score], np.float32),
        status=np.array([NORMAL if readings >= rules.warm_up else WARMING_UP], np.uint8),
        reason=np.array([reason], np.uint8),
        alert=np.array([False]),
        mid=mid,
        half=rules.half,
        residual=residual,
        attribution=shares_alone(found.strange[reason]),
        parts=np.array([found.parts]),
        states=states,
    )


def _in_arrays(found: _Judged, states: Records, calibration: ResidualCalibration) -> Judged:
    """For `conclude`; `states` as they are after the reading."""
    c, told = len(found.missed), np.array(found.strange)[:, None]
    reason = found.parts.index(max(found.parts))
    return Judged(
        np.array([found.score]),
        np.array([reason]),
        shares(told[reason]),
        np.array([found.parts]),
        np.array([found.missed]),
        alone_of(told, states, calibration),
        just_above(np.array(found.runs).reshape(2, 1, c), np.array(found.limits).reshape(2, 1, c)),
        np.array([found.signals]),
        told,
    )


def _judged(
    row: list[float],
    places: list[float],
    there: list[bool],
    forecast: list[float],
    held: tuple[Any, ...],
    calibration: ResidualCalibration,
    of: Numbers,
) -> tuple[_Judged, tuple[Any, ...]]:
    """What `judge` says of the values, in physical and in standardised units, and what is to be held after it."""
    c = len(row)
    noise, level, lively, home, last = (list(held[at : at + c]) for at in range(5, 5 + 5 * c, c))
    changes = [abs(value - before) for value, before in zip(row, last, strict=True)]
    runs, limits, longest, long = _runs(changes, there, held[5 + 5 * c :], of)
    missed, misses, strays, louder = [], [], [], []
    taught, settles = [0.0] * c, [0.0] * c
    for at, forecast_of in enumerate(forecast):
        seen, x = there[at], places[at] if there[at] else 0.0
        off = (x - forecast_of) * seen
        miss = abs(off) / of.event_scale[at]
        if of.constant[at]:
            miss = float(np.log1p(miss))
        loud = max(noise[at], 0.0) + 1.0
        missed.append(off)
        misses.append(miss)
        louder.append(miss / loud)
        if seen:
            lesson = min(miss / of.usual_miss[at], loud * NOISE_LIMIT) - noise[at] - 1.0
            taught[at] = lesson / TEACHING_READINGS
            level[at] += (min(max(x, -LEVEL_LIMIT), LEVEL_LIMIT) - level[at]) * LEVEL_GAIN
            limit = of.accept_limit[at]
            settles[at] = min(max(level[at] - home[at], -limit), limit) / TEACHING_READINGS
            if math.isfinite(changes[at]):
                lesson = min(changes[at] / of.change_scale[at], CHANGE_LIMIT) - lively[at]
                lively[at] += lesson * LIVELY_GAIN
            last[at] = row[at]
        away = max(level[at] - max(home[at], 0.0), min(home[at], 0.0) - level[at], 0.0)
        strays.append(away / of.level_scale[at])

    quiet = [each / usual + LEAST_LIVELINESS for each, usual in zip(lively, of.usual_lively, strict=True)]
    quiet = [each * gain for each, gain in zip(np.log(np.array(quiet)).tolist(), of.quiet_gain, strict=True)]
    stood = [run / limit for run, limit in zip(runs, limits, strict=True)]
    if max(stood) > 1.0:
        long = True
        still_told = (run <= limit + APART_READINGS for run, limit in zip(runs, limits, strict=True))
        stood = [each * told for each, told in zip(stood, still_told, strict=True)]
    strange = (louder, strays, stood[:c], stood[c:], quiet)
    squares = [
        [(least := min(miss, MISS_LIMIT)) * least for miss in misses],
        [(square := each * each) * square for each in lively],
        [(square := (far := each / scale) * far) * square for each, scale in zip(level, of.level_scale, strict=True)],
        [each * each for each in louder],
        [(square := each * each) * square for each in strays],
    ]
    sums = np.add.reduce(np.array(squares), 1).tolist()
    longest_runs = [max(each) for each in strange[2:]]
    pooled = pooled_of(sums, longest_runs, held[:5], any(there), calibration, NUMBERS)
    pace = pooled[13]
    noise = [each + lesson * pace for each, lesson in zip(noise, taught, strict=True)]
    home = [each + lesson * pace for each, lesson in zip(home, settles, strict=True)]
    kept = (*pooled[8:13], *noise, *level, *lively, *home, *last, *runs, long, *longest)
    return _Judged(pooled[7], pooled[:PARTS], strange, missed, pooled[PARTS:7], runs, limits), kept


def _runs(
    changes: list[float], there: list[bool], held: tuple[Any, ...], of: Numbers
) -> tuple[list[int], list[float], list[int], bool]:
    """Readings since each channel last changed, then since each was last seen; limits; the longest that have ended;
    and whether any was ever longer than its limit."""
    c = len(there)
    runs, long, longest = list(held[: 2 * c]), held[2 * c], list(held[2 * c + 1 :])
    before, limits = runs.copy() if long else runs, of.run_limits
    for at, seen in enumerate(there):
        if seen:
            runs[at] = runs[at] + 1 if changes[at] == 0.0 else 0
            runs[c + at] = 0
        else:
            runs[c + at] += 1
    if long:
        own = ((RUN_MARGIN * run + RUN_ALLOWANCE) * (run > 0) for run in longest)
        limits = list(map(max, limits, own))
        for at, run in enumerate(before):
            if runs[at] < run and run > limits[at]:
                longest[at] = max(longest[at], run)
    return runs, limits, longest, long
