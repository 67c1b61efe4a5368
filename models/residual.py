"""From a reading and its forecast to an anomaly score: one definition for calibration, scan and service.

The score is the largest of four parts, each in units of its own threshold, so that 1.0 is the alarm edge:

    event    the forecast missed       u_c = |x_c - forecast_c| / r_c;   z_c = u_c / max(1, w_c);   p = ‖z‖₂
                                       E' = E + (p - E)/2;                        (E' - m) / (s·T_E)
    level    the level left its home   l' = l + 2(x - l)/11;   L = ‖l'/λ‖₄;       (L - max(A, 0)) / T_L
    still    a channel does not move   readings since it last changed / the most that is normal for it
    absent   a channel is missing      readings since it was last seen / the most that is normal for it

x is in standardised units; r and λ are each channel's usual miss and level, learned from normal recordings. The misses
are scaled by what was measured, not predicted: a network that predicts its own spread explains anomalies away. ‖·‖₂
over the misses, because an incident mostly shows in many channels at once; m and s, mean and spread of p over the last
n = 1,000 readings or so, say how many channels there are and how noisy they have lately been.

What is judged teaches slowly, and an anomaly no faster than stated:

    w' = w + (min(u/ū, 8 max(1, w)) - w)/n     how much noisier a channel has become: by 0.7 % a reading at most
    m' = m + δ/n,  s²' = s² + (δ² - s²)/n      with δ = min(p - m, 4 s): s by 0.75 % a reading at most
    A' = A + min(L - H - A, 3 T_L)/n           the strangeness of the levels taken for granted, above the usual H

So whatever lasts is accepted: levels at D thresholds after about n x max(ln D, D/3 + 0.1) readings, misses D times as
large as usual after about n x (0.15 ln D + 2). What is accepted, but is not what the recordings were like, keeps a
score below 1, so that scores still rank: where no part is above 1, the score is the largest of them and U/(1 + U),

    U = ‖ E°/(m₀ + 3 s₀), 1.75 L/T_L, V/T_V ‖₂     E°, of ‖u‖₂, over 15 readings
    V = ‖a'‖₄,  a' = a + 2(|Δx|/d - a)/41           how lively the channels are, against their usual change d
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

REASONS = ("event", "level", "still", "absent", "range")
PARTS = 4
"""So many of them a trained model has; the general model has all."""

EVENT_GAIN = 0.5
"""An exponential mean over 3 readings: 2/(3+1)."""

PLAIN_GAIN = 2 / 16
"""An exponential mean over 15 readings."""

LEVEL_GAIN = 2 / 11
"""An exponential mean over 10 readings."""

LIVELY_GAIN = 2 / 41
"""An exponential mean over 40 readings."""

LEVEL_LIMIT = 10.0
"""Spreads; a reading farther out moves the level no more than this, and the event part has seen it."""

MISS_LIMIT, CHANGE_LIMIT = 100.0, 1000.0
"""Times the usual miss and the usual change; more is not remembered."""

EVENT_MEMORY = 12.0
"""Spreads of p; how much of a past event is remembered, so that one wild reading does not ring for many."""

TEACHING_READINGS = 1000.0
NOISE_LIMIT, EVENT_LIMIT, ACCEPT_LIMIT = 8.0, 4.0, 3.0
"""What one reading may teach at most: in noise of its channel, spreads of p, and thresholds."""

LEAST_VARIANCE = 1 / 16
"""Of p: a spread of a quarter of a usual miss."""

Floats = NDArray[np.float64]
Records = NDArray[Any]


@dataclass(frozen=True)
class ResidualCalibration:
    """What is normal for the channels of one model, learned from normal recordings.

    Attributes:
        event_scale: (C,) r, standardised units.
        usual_miss: (C,) ū, the mean of u.
        level_scale: (C,) λ, standardised units.
        change_scale: (C,) d, physical units.
        still_limit: (C,) readings without a change that are still normal; infinite for a constant channel.
        absent_limit: (C,) readings without a value that are still normal.
        event_mean, event_variance: m₀ and s₀² of p.
        event_threshold: T_E, in spreads of p.
        level_home: H.
        level_threshold: T_L.
        lively_scale: T_V, what V seldom exceeds.
    """

    event_scale: Floats
    usual_miss: Floats
    level_scale: Floats
    change_scale: Floats
    still_limit: Floats
    absent_limit: Floats
    event_mean: float
    event_variance: float
    event_threshold: float
    level_home: float
    level_threshold: float
    lively_scale: float

    @cached_property
    def usual_plain(self) -> float:
        """m₀ + 3 s₀."""
        return float(self.event_mean + 3 * np.sqrt(self.event_variance))


@dataclass(frozen=True)
class Judged:
    """What one reading of each of B streams came to.

    Attributes:
        score: (B,) above 1 where a part is, and then the largest part.
        reason: (B,) the index of the largest part in REASONS.
        attribution: (B, C) the channels' shares in that part; each row sums to 1.
        parts: (B, 4) all parts, in units of their thresholds.
        signals: (B, 3) before threshold and acceptance: (E' - m)/s, L and V; of the general model (B, 2), r and r̄.
    """

    score: Floats
    reason: NDArray[np.intp]
    attribution: Floats
    parts: Floats
    signals: Floats


def state_fields(channels: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """The fields of a stream's state that this module keeps: 24 bytes a channel and 20 more; all begin at 0.

    `noise` is w - 1, `usual` m - m₀, `unrest` s² - s₀², `accepted` A.
    """
    return [
        ("event", "<f4", ()),
        ("plain", "<f4", ()),
        ("usual", "<f4", ()),
        ("unrest", "<f4", ()),
        ("accepted", "<f4", ()),
        ("noise", "<f4", (channels,)),
        ("level", "<f4", (channels,)),
        ("lively", "<f4", (channels,)),
        ("value", "<f4", (channels,)),
        ("still", "<u4", (channels,)),
        ("absent", "<u4", (channels,)),
    ]


def judge(
    values: NDArray[np.float32],
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
        states: (B,) records with `state_fields`, `value` beginning as NaN; changed in place.
        calibration: of the model that made the forecast.
    """
    observed = np.isfinite(values)
    strange = np.empty((PARTS, *values.shape))  # (4, B, C): each part's view of each channel
    signals, parts = np.empty((len(values), 3)), np.empty((len(values), PARTS))
    x = np.where(observed, deviation, 0.0)
    plain = _event(x, forecast, observed, states, calibration, strange[0], signals, parts)
    _level(x, observed, states, calibration, strange[1], signals, parts)
    _runs(values, observed, states, calibration, strange[2:], signals, parts)

    reason, largest = parts.argmax(axis=1), np.maximum.reduce(parts, 1)
    differs = np.square(plain / calibration.usual_plain)
    differs += np.square(signals[:, 1] * (1.75 / calibration.level_threshold))
    differs += np.square(signals[:, 2] / calibration.lively_scale)
    differs = np.sqrt(differs)
    score = np.where(largest > 1.0, largest, np.maximum(largest, differs / (1.0 + differs)))
    return Judged(score, reason, shares(strange[reason, np.arange(len(values))]), parts, signals)


def _event(
    x: Floats,
    forecast: Floats | NDArray[np.float32],
    observed: NDArray[np.bool_],
    states: Records,
    calibration: ResidualCalibration,
    z: Floats,
    signals: Floats,
    parts: Floats,
) -> Floats:
    """The event part; fills z, its signal and its part, and returns E°, (B,)."""
    miss = np.abs(x - forecast)
    miss /= calibration.event_scale
    miss *= observed
    noise = states["noise"].astype(np.float64)
    louder = np.maximum(noise, 0.0)
    louder += 1.0
    np.divide(miss, louder, out=z)
    louder *= NOISE_LIMIT
    taught = np.minimum(miss / calibration.usual_miss, louder) - noise
    taught -= 1.0
    taught *= observed
    states["noise"] = noise + taught / TEACHING_READINGS

    pooled = np.sqrt(np.add.reduce(z * z, 1))
    mean = calibration.event_mean + states["usual"].astype(np.float64)
    variance = calibration.event_variance + states["unrest"].astype(np.float64)
    spread = np.sqrt(np.maximum(variance, LEAST_VARIANCE))
    event = states["event"].astype(np.float64)
    event += EVENT_GAIN * (pooled - event)
    signals[:, 0] = (event - mean) / spread
    parts[:, 0] = np.maximum(signals[:, 0], 0.0) / calibration.event_threshold
    states["event"] = np.minimum(event, mean + EVENT_MEMORY * spread)
    delta = np.minimum(pooled - mean, EVENT_LIMIT * spread) * np.logical_or.reduce(observed, 1)
    states["usual"] += delta / TEACHING_READINGS
    states["unrest"] += (delta * delta - variance) / TEACHING_READINGS

    np.minimum(miss, MISS_LIMIT, out=miss)
    plain = states["plain"].astype(np.float64)
    plain += PLAIN_GAIN * (np.sqrt(np.add.reduce(miss * miss, 1)) - plain)
    states["plain"] = plain
    return np.asarray(plain)


def _level(
    x: Floats,
    observed: NDArray[np.bool_],
    states: Records,
    calibration: ResidualCalibration,
    q: Floats,
    signals: Floats,
    parts: Floats,
) -> None:
    """The level part; fills q, its signal and its part."""
    level = states["level"].astype(np.float64)
    towards = np.minimum(np.maximum(x, -LEVEL_LIMIT), LEVEL_LIMIT) - level
    towards *= observed
    level += LEVEL_GAIN * towards
    states["level"] = level
    np.abs(level, out=q)
    q /= calibration.level_scale
    pooled = pool(q)
    signals[:, 1] = pooled
    accepted = states["accepted"].astype(np.float64)
    parts[:, 1] = np.maximum(pooled - np.maximum(accepted, 0.0), 0.0) / calibration.level_threshold
    taught = np.minimum(pooled - calibration.level_home - accepted, ACCEPT_LIMIT * calibration.level_threshold)
    states["accepted"] = accepted + taught / TEACHING_READINGS


def _runs(
    values: NDArray[np.float32],
    observed: NDArray[np.bool_],
    states: Records,
    calibration: ResidualCalibration,
    strange: Floats,
    signals: Floats,
    parts: Floats,
) -> None:
    """What the value before says: the still and the absent part, and how lively the channels are."""
    still, absent = strange
    before = states["value"]
    change = np.abs(values.astype(np.float64) - before)
    same = change == 0.0
    change /= calibration.change_scale
    towards = np.fmin(change, CHANGE_LIMIT)
    lively = states["lively"].astype(np.float64)
    towards -= lively
    lively += LIVELY_GAIN * np.where(np.isfinite(change), towards, 0.0)
    states["lively"] = lively
    signals[:, 2] = pool(lively)

    missing = ~observed
    readings_still = (states["still"] + same) * (same | missing)
    readings_absent = (states["absent"] + 1) * missing
    states["still"] = readings_still
    states["absent"] = readings_absent
    states["value"] = np.where(observed, values, before)
    np.divide(readings_still, calibration.still_limit, out=still)
    np.divide(readings_absent, calibration.absent_limit, out=absent)
    parts[:, 2:] = np.maximum.reduce(strange, 2).T


def pool(strangeness: Floats) -> Floats:
    """(B, C) to (B,): the fourth root of the sum of fourth powers."""
    squared = strangeness * strangeness
    return np.asarray(np.sqrt(np.sqrt(np.add.reduce(squared * squared, 1))))


def shares(strangeness: Floats) -> Floats:
    """(B, C) to shares of the fourth powers, each row summing to 1; equal shares where nothing is strange."""
    largest = np.maximum.reduce(strangeness, 1, keepdims=True)
    relative = np.divide(strangeness, largest, out=np.ones_like(strangeness), where=largest > 0)
    powers = relative * relative
    powers *= powers
    powers /= np.add.reduce(powers, 1, keepdims=True)
    return powers
