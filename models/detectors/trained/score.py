"""From a reading and its forecast to an anomaly score: one definition for calibration, scan and service.

The score is the largest of four parts, each in units of its own threshold, so that 1.0 is the alarm edge:

    event    the forecast missed       u_c = |x_c - forecast_c| / r_c;   z_c = u_c / max(1, w_c);   p = ‖z‖₂
                                       E' = E + (p - E)/2;                        (E' - m) / (s·T_E)
    level    the level left its home   l' = l + 2(x - l)/11;   L = ‖o/λ‖₄;        L / T_L
    still    a channel does not move   readings since it last changed / the most that is normal for it
    absent   a channel is missing      readings since it was last seen / the most that is normal for it

x is in standardised units; o is how far l' lies outside of the range from 0 to a, which is its channel's home; r and λ
are each channel's usual miss and level, learned from normal recordings. The misses
are scaled by what was measured, not predicted: a network that predicts its own spread explains anomalies away. ‖·‖₂
over the misses, because an incident mostly shows in many channels at once; m and s, mean and spread of p over the last
n = 1,000 readings or so, say how many channels there are and how noisy they have lately been.

What is judged teaches slowly, and an anomaly no faster than stated:

    w' = w + g (min(u/ū, 8 max(1, w)) - w)/n   how much noisier a channel has become: by 0.7 % a reading at most
    m' = m + g δ/n,  s²' = s² + g (δ² - s²)/n  with δ = min(p - m, 4 s): s by 0.75 % a reading at most
    a' = a + g (l' - a)/n                      where a channel's level has its home besides 0, by 3 T_L λ/n at most
    g = 1 of a normal reading, and else min(1, k/300): k anomalous ones lately, less a tenth of the normal ones since

So whatever lasts is accepted: levels at D thresholds after about n x max(ln D, D/3 + 0.1) + 150 readings, misses D
times as large as usual after about n x (0.15 ln D + 2) + 150. What recurs is not, as long as less than a tenth of the
readings are anomalous: an incident of 20 readings teaches as much as one normal reading. What is accepted, but is not
what the recordings were like, keeps a score below 1, so that scores still rank: where no part is above 1, the score is
U/(1 + U), of how unlike they all are,

    1 + U² = Π(1 + r²),  r of E°/(m₀ + 3 s₀), 1.75 L°/T_L, V/T_V, Q;   E°, of ‖u‖₂, over 30 readings;  L° = ‖l'/λ‖₄
    V = ‖v'‖₄,  v' = v + 2(|Δx|/d - v)/41            how lively the channels are, against a change d
    Q = max(-ln(v'/v̄ + 0.001)/κ)                     how quiet one is, against its usual liveliness v̄

A channel that never moved in the recordings has no unit. Its u is ln(1 + u), so that its first step is told, but not
as the strangest thing ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.judged import APART_READINGS, RUN_ALLOWANCE, RUN_MARGIN, Judged, just_above, shares
from gatewatch.models.detectors.operands import ARRAYS, NUMBERS, Functions
from gatewatch.models.detectors.trained.calibrated import ResidualCalibration
from gatewatch.models.record_fields import load, store

PARTS = 4
"""So many of REASONS a trained model has."""

EVENT_GAIN = 0.5
"""An exponential mean over 3 readings: 2/(3+1)."""

PLAIN_GAIN = 2 / 31
"""An exponential mean over 30 readings; over 15, VUS-PR on SMAP/MSL was 0.546 instead of 0.556, and else the same."""

LEVEL_GAIN = 2 / 11
"""An exponential mean over 10 readings."""

LIVELY_GAIN = 2 / 41
"""An exponential mean over 40 readings."""

LEAST_LIVELINESS = 1e-3
"""Of the usual; what is quieter counts no more."""

LEVEL_LIMIT = 10.0
"""Spreads; a reading farther out moves the level no more than this, and the event part has seen it."""

MISS_LIMIT, CHANGE_LIMIT = 100.0, 1000.0
"""Times the usual miss and the usual change; more is not remembered."""

EVENT_MEMORY = 12.0
"""Spreads of p; how much of a past event is remembered, so that one wild reading does not ring for many."""

TEACHING_READINGS = 1000.0
HELD_READINGS, FORGIVEN = 300.0, 0.1
"""So many anomalous readings, until one teaches as much as what is normal; a normal one takes so much of one away.

Labelled sets do not tell 0.1, 0.3 and 1 apart. With 0.3 or 1, bursts in a fifth of the readings are never learned, and
a trend that goes on alarms at 16 or 17 % of 20,000 new readings (7 % with 0.1; 1 % asked). With 0.1, what lasts an hour
and comes again after two to five (at a reading a minute) fades to a fifth at the eighth time; 20 minutes keep 0.9."""

NOISE_LIMIT, EVENT_LIMIT = 8.0, 4.0
"""What one reading may teach at most: in noise of its channel, and spreads of p; see also calibrated.ACCEPT_LIMIT."""

LEAST_VARIANCE = 1 / 16
"""Of p: a spread of a quarter of a usual miss."""

MOST_HELD = 1000.0

FOURTH = [1, 2, 4]
"""Of what is pooled, what is pooled by its fourth power."""

_TIMES = np.array([TEACHING_READINGS, 1.0, 1.0])[:, None, None]
_GAINS = np.array([1.0, LEVEL_GAIN, LIVELY_GAIN])[:, None, None]
"""What a lesson for noise, level and liveliness is divided by, and multiplied with."""

Floats = NDArray[np.float64]
Records = NDArray[Any]


def state_fields(channels: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """The fields of a stream's state that this module keeps: 40 bytes a channel and 21 more.

    `long` tells whether any run was ever longer than its limit; such runs, once they have ended, are in `longest_still`
    and `longest_absent`.

    All begin at 0, but `lively` as is usual and `value` as NaN: see `begin`. `noise` is w - 1, `usual` m - m₀,
    `unrest` s² - s₀², `accepted` a, `held` k.
    """
    return [
        ("event", "<f4", ()),
        ("plain", "<f4", ()),
        ("usual", "<f4", ()),
        ("unrest", "<f4", ()),
        ("held", "<f4", ()),
        ("noise", "<f4", (channels,)),
        ("level", "<f4", (channels,)),
        ("lively", "<f4", (channels,)),
        ("accepted", "<f4", (channels,)),
        ("value", "<f8", (channels,)),
        ("still", "<u4", (channels,)),
        ("absent", "<u4", (channels,)),
        ("long", "?", ()),
        ("longest_still", "<u4", (channels,)),
        ("longest_absent", "<u4", (channels,)),
    ]


LEARNED = ("usual", "unrest", "held", "noise", "accepted", "long", "longest_still", "longest_absent")
"""Of `state_fields`, those that say what is normal for the stream."""


def begin(states: Records, calibration: ResidualCalibration) -> None:
    """Turn states, all 0, into those of streams that have not seen a reading."""
    states["lively"] = calibration.usual_lively
    states["value"] = np.nan


def judge(
    values: Floats,
    deviation: Floats,
    forecast: Floats | NDArray[np.float32],
    states: Records,
    calibration: ResidualCalibration,
) -> Judged:
    """Score one reading of each of B streams; write what is remembered of it into `states`.

    Args:
        values: (B, C) physical units; NaN is missing: not judged, only counted as absent.
        deviation: (B, C) the same in standardised units, without bounds.
        forecast: (B, C) standardised units.
        states: (B,) records with `state_fields`; changed in place.
        calibration: of the model that made the forecast.
    """
    channels = load(states, "noise", 4)  # (4, B, C): noise, level, lively, accepted
    runs = load(states, "still", 2)  # still, absent
    means = load(states, "event", 5)  # (5, B): event, plain, usual, unrest, held

    change = np.abs(values - states["value"])
    known = np.isfinite(change)
    whole = np.count_nonzero(known) == known.size  # no value is missing, and none was in the reading before
    observed = known if whole else np.isfinite(values)
    x = deviation if whole else np.where(observed, deviation, 0.0)
    before = runs.copy() if np.count_nonzero(states["long"]) else None
    _count_runs(runs, change == 0.0, None if whole else ~observed)
    limits = calibration.run_limits if before is None else _own_limits(before, runs, states, calibration)
    if whole:
        states["value"] = values
    else:
        np.copyto(states["value"], values, where=observed)

    missed: Floats = np.subtract(x, forecast)
    if not whole:
        missed *= observed
    miss = np.abs(missed)
    miss /= calibration.event_scale
    if calibration.constants is not None:
        miss[:, calibration.constants] = np.log1p(miss[:, calibration.constants])
    louder = np.maximum(channels[0], 0.0)
    louder += 1.0
    # what is pooled: plain misses, liveliness, all of a level, z, o/λ; of each part: z, o/λ, runs; last, how quiet
    views = np.empty((8, *values.shape))
    strange = views[3:]
    np.divide(miss, louder, out=views[3])

    louder *= NOISE_LIMIT
    lessons = np.empty((3, *values.shape))  # for noise, level and liveliness; home comes after the level
    np.minimum(miss / calibration.usual_miss, louder, out=lessons[0])
    np.minimum(np.maximum(x, -LEVEL_LIMIT), LEVEL_LIMIT, out=lessons[1])
    np.fmin(change / calibration.change_scale, CHANGE_LIMIT, out=lessons[2])
    lessons -= channels[:3]
    lessons[0] -= 1.0
    if not whole:
        lessons[:2] *= observed
        lessons[2] *= known
    lessons /= _TIMES
    lessons *= _GAINS
    channels[1:3] += lessons[1:]
    level, home = channels[1], channels[3]
    np.maximum(level - np.maximum(home, 0.0), np.minimum(home, 0.0) - level, out=views[4])
    np.maximum(views[4], 0.0, out=views[4])
    views[4] /= calibration.level_scale
    taught = lessons[1]
    np.subtract(level, home, out=taught)
    np.minimum(np.maximum(taught, -calibration.accept_limit, out=taught), calibration.accept_limit, out=taught)
    taught /= TEACHING_READINGS
    if not whole:
        taught *= observed
    store(states, "still", runs)

    np.minimum(miss, MISS_LIMIT, out=views[0])
    views[1] = channels[2]
    np.divide(np.abs(level), calibration.level_scale, out=views[2])
    np.divide(runs, limits, out=views[5:7])
    _quiet(channels[2], calibration, out=views[7])
    powers = np.square(views[:5])
    powers[FOURTH] *= powers[FOURTH]
    powers, longest = np.add.reduce(powers, 2), np.maximum.reduce(views[5:], 2)
    if np.count_nonzero(longest[:2] > 1.0):
        states["long"] |= np.logical_or.reduce(longest[:2] > 1.0)
        views[5:7] *= runs <= limits + APART_READINGS
        np.maximum.reduce(views[5:7], 2, out=longest[:2])

    if len(values) == 1:  # numbers: the same bits in a tenth of the time
        sums, lengths, before = (column[:, 0].tolist() for column in (powers, longest, means))
        noticed: Any = whole or bool(observed.any())
        pooled = np.array(pooled_of(sums, lengths, before, noticed, calibration, NUMBERS))[:, None]
    else:
        noticed = np.logical_or.reduce(observed, 1)
        pooled = np.array(pooled_of(powers, longest, means, noticed, calibration, ARRAYS))
    store(states, "event", pooled[8:13])
    channels[::3] += lessons[:2] * pooled[13, :, None]
    store(states, "noise", channels)
    reason = pooled[:PARTS].argmax(axis=0)
    alone = stops = None
    if np.count_nonzero(pooled[7] > 1.0):
        alone, stops = alone_of(strange, states, calibration), just_above(runs, limits)
    telling = strange[reason.item()] if len(values) == 1 else strange[reason, np.arange(len(values))]
    return Judged(
        pooled[7], reason, shares(telling), pooled[:PARTS].T, missed, alone, stops, pooled[PARTS:7].T, strange
    )


def _own_limits(before: Floats, runs: Floats, states: Records, calibration: ResidualCalibration) -> Floats:
    """(2, B, C) the limits of runs, raised by the longest that have ended in the stream's life."""
    longest = load(states, "longest_still", 2)
    limits = np.maximum(calibration.run_limits, (RUN_MARGIN * longest + RUN_ALLOWANCE) * (longest > 0))
    ended = (runs < before) & (before > limits)
    if np.count_nonzero(ended):
        np.maximum(longest, before, out=longest, where=ended)
        store(states, "longest_still", longest)
    return limits


def alone_of(strange: Floats, states: Records, calibration: ResidualCalibration) -> NDArray[np.bool_]:
    """(B, C) whether the channel's z, q, or run is above the threshold of its part.

    Args:
        strange: (5, B, C) z, q, runs; the rest is not looked at.
    """
    mean, variance = calibration.event_mean + states["usual"], calibration.event_variance + states["unrest"]
    event = mean + calibration.event_threshold * np.sqrt(np.maximum(variance, LEAST_VARIANCE))
    level = calibration.level_threshold
    return np.asarray((strange[0] > event[:, None]) | (strange[1] > level) | (strange[2] > 1.0) | (strange[3] > 1.0))


def set_apart(states: Records, calibration: ResidualCalibration) -> NDArray[np.bool_]:
    """(B, C) channels that have stood still, or been absent, for so long that they no longer count."""
    runs, longest = load(states, "still", 2), load(states, "longest_still", 2)
    limits = np.maximum(calibration.run_limits, (RUN_MARGIN * longest + RUN_ALLOWANCE) * (longest > 0))
    return np.asarray(np.logical_or.reduce(runs > limits + APART_READINGS))


def _quiet(lively: Floats, calibration: ResidualCalibration, out: Floats) -> None:
    """(B, C) how quiet each channel is, in its quiet_scale."""
    np.divide(lively, calibration.usual_lively, out=out)
    out += LEAST_LIVELINESS
    np.log(out, out=out)
    out *= calibration.quiet_gain


def _count_runs(runs: Floats, same: NDArray[np.bool_], missing: NDArray[np.bool_] | None) -> None:
    """Readings since each channel last changed, and since it was last seen; `missing` is None if none is."""
    still, absent = runs
    if missing is None:
        still += 1.0
        still *= same
        absent.fill(0.0)
    else:
        still += same
        still *= same | missing
        absent += 1.0
        absent *= missing


def pooled_of(
    powers: Iterable[Any],
    longest: Iterable[Any],
    means: Iterable[Any],
    noticed: Any,
    calibration: ResidualCalibration,
    of: Functions,
) -> tuple[Any, ...]:
    """The four parts, three signals, the score, five means after the reading, and g, by what was summed over channels.

    All are arrays (B,) or numbers.

    Args:
        powers: sums over the channels: squares of plain misses, fourth powers of changes and of levels, squares of z,
            fourth powers of how far levels are outside of their homes.
        longest: of any channel, the largest still and absent part and the largest of how quiet it is.
        means: of the stream so far, see `state_fields`.
        noticed: whether any channel was observed.
        of: the functions for arrays, or those for numbers.
    """
    miss, lively, place, p, level = (of.root(power) for power in powers)
    lively, place, level = of.root(lively), of.root(place), of.root(level)
    event, plain, usual, unrest, held = means
    still, absent, quiet = longest
    mean, variance = calibration.event_mean + usual, calibration.event_variance + unrest
    spread = of.root(of.larger(variance, LEAST_VARIANCE))
    event = event + EVENT_GAIN * (p - event)
    plain = plain + PLAIN_GAIN * (miss - plain)
    signal = (event - mean) / spread
    parts = (
        of.larger(signal, 0.0) / calibration.event_threshold,
        level / calibration.level_threshold,
        still,
        absent,
    )
    largest = of.larger(of.larger(parts[0], parts[1]), of.larger(parts[2], parts[3]))

    delta = of.smaller(p - mean, EVENT_LIMIT * spread) * noticed
    strange = largest > 1.0
    held = of.smaller(of.larger(held + of.where(strange, 1.0, -FORGIVEN), 0.0), MOST_HELD)
    pace = of.where(strange, of.smaller(held / HELD_READINGS, 1.0), 1.0)
    unlike = (
        plain / calibration.usual_plain,
        place * (1.75 / calibration.level_threshold),
        lively / calibration.lively_scale,
        of.larger(quiet, 0.0),
    )
    differs = of.root(math.prod(1.0 + part * part for part in unlike) - 1.0)
    return (
        *parts,
        *(signal, level, lively),
        of.where(strange, largest, differs / (1.0 + differs)),
        of.smaller(event, mean + EVENT_MEMORY * spread),
        plain,
        usual + pace * delta / TEACHING_READINGS,
        unrest + pace * (delta * delta - variance) / TEACHING_READINGS,
        held,
        pace,
    )
