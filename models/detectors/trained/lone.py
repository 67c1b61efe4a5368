"""One reading of one stream, in numbers: what score.py says of arrays, to the bit, in a third of the time.

A numpy operation costs the same for one number as for fifty. Here each channel is reckoned in Python numbers; numpy is
asked for sums and logarithms, whose last bits no other library has. The rules are those of score.py, where they are
explained; a test holds both to each other. A state or a value that is not finite is left to score.py.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.operands import NUMBERS
from gatewatch.models.detectors.trained.score import (
    APART_READINGS,
    CHANGE_LIMIT,
    LEAST_LIVELINESS,
    LEVEL_GAIN,
    LEVEL_LIMIT,
    LIVELY_GAIN,
    MISS_LIMIT,
    NOISE_LIMIT,
    PARTS,
    RUN_ALLOWANCE,
    RUN_MARGIN,
    TEACHING_READINGS,
    Floats,
    Judged,
    Numbers,
    Records,
    ResidualCalibration,
    alone_of,
    just_above,
    pooled_of,
    shares,
)

MOST_CHANNELS = 16
"""With more, arrays are quicker."""

LARGEST = 1e150
"""Of values and deviations whose squares are finite."""


@lru_cache
def _layout(dtype: np.dtype[Any], channels: int) -> tuple[struct.Struct, int]:
    """All numbers of `state_fields`, and where they begin."""
    fields: Any = dtype.fields
    return struct.Struct(f"<{5 + 4 * channels}f{channels}d{2 * channels}I?{2 * channels}I"), fields["event"][1]


def judge_alone(
    values: Floats,
    deviation: Floats,
    forecast: NDArray[np.float32],
    states: Records,
    calibration: ResidualCalibration,
) -> Judged | None:
    """`judge` of one stream; None, and nothing is changed, where that has to look at it."""
    c, of = values.shape[1], calibration.numbers
    layout, offset = _layout(states.dtype, c)
    record = states.view(np.uint8).data
    held = layout.unpack_from(record, offset)
    row, places = values[0].tolist(), deviation[0].tolist()
    there = list(map(math.isfinite, row))
    wild = any(seen and abs(each) > LARGEST for each, seen in zip((*row, *places), there * 2, strict=True))
    if of is None or wild or not math.isfinite(sum(held[: 5 + 4 * c])):
        return None

    noise, level, lively, home, last = (list(held[at : at + c]) for at in range(5, 5 + 5 * c, c))
    changes = [abs(value - before) for value, before in zip(row, last, strict=True)]
    runs, limits, longest, long = _runs(changes, there, held[5 + 5 * c :], of)
    missed, misses, strays, louder = [], [], [], []
    taught, settles = [0.0] * c, [0.0] * c
    for at, forecast_of in enumerate(forecast[0].tolist()):
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
        [_square(min(miss, MISS_LIMIT)) for miss in misses],
        [_square(_square(each)) for each in lively],
        [_square(_square(abs(each) / scale)) for each, scale in zip(level, of.level_scale, strict=True)],
        [_square(each) for each in louder],
        [_square(_square(each)) for each in strays],
    ]
    sums = np.add.reduce(np.array(squares), 1).tolist()
    longest_runs = [max(each) for each in strange[2:]]
    pooled = pooled_of(sums, longest_runs, held[:5], any(there), calibration, NUMBERS)

    pace = pooled[13]
    noise = [each + lesson * pace for each, lesson in zip(noise, taught, strict=True)]
    home = [each + lesson * pace for each, lesson in zip(home, settles, strict=True)]
    numbers = (*pooled[8:13], *noise, *level, *lively, *home, *last)
    layout.pack_into(record, offset, *numbers, *runs, long, *longest)
    parts, score = pooled[:PARTS], pooled[7]
    reason = parts.index(max(parts))
    told = np.array(strange)[:, None]
    alone = stops = None
    if score > 1.0:
        alone = alone_of(told, states, calibration)
        stops = just_above(np.array(runs).reshape(2, 1, c), np.array(limits).reshape(2, 1, c))
    return Judged(
        np.array([score]),
        np.array([reason]),
        shares(told[reason]),
        np.array([parts]),
        np.array([missed]),
        alone,
        stops,
        np.array([pooled[PARTS:7]]),
        told,
    )


def _square(number: float) -> float:
    return number * number


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
