"""From a reading and its forecast to an anomaly score: one definition for calibration, scan and service.

The score is the largest of four parts, each in units of its own threshold, so that 1.0 is the alarm edge:

    event    the forecast missed      z_c = |x_c - forecast_c| / error scale_c;   E' = E + (‖z‖₄ - E)/2;     E'/T_E
    level    the level left its home  l' = l + 2(x - l)/11;   q_c = |l'_c - b_c|;                            ‖q‖₄/T_L
    still    a channel does not move  readings since it last changed / the most that is normal for it
    absent   a channel is missing     readings since it was last seen / the most that is normal for it

x is in standardised units. ‖·‖₄ pools the channels: one at 8 among 38 calm ones gives 8, and 38 at 3 each give 7.4.
The error scale is measured on held-out readings, not predicted: a network that predicts its own spread explains
anomalies away. The baseline b follows the level by at most BASELINE_STEP / BASELINE_READINGS a reading, so a lasting
change of D spreads is accepted after about 1,000 x max(1, D/3) readings, and nothing teaches faster than that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

REASONS = ("event", "level", "still", "absent", "range")
PARTS = 4
"""So many of them a trained model has; the general model has all."""


EVENT_GAIN = 0.5
"""An exponential mean over 3 readings: 2/(3+1)."""

LEVEL_GAIN = 2 / 11
"""An exponential mean over 10 readings."""

LEVEL_LIMIT = 10.0
"""Spreads; a reading farther out moves the level no more than this, and the event part has seen it."""

EVENT_MEMORY = 2.0
"""Times the threshold; how much of a past event is remembered, so that one wild reading does not ring for many."""

BASELINE_STEP = 3.0
BASELINE_READINGS = 1000.0

Floats = NDArray[np.float64]
Records = NDArray[Any]


@dataclass(frozen=True)
class ResidualCalibration:
    """What is normal for the channels of one model, learned from normal recordings.

    Attributes:
        error_scale: (C,) root mean square of the forecast error, standardised units.
        event_threshold: T_E.
        level_threshold: T_L, in spreads.
        still_limit: (C,) readings without a change that are still normal; infinite for a constant channel.
        absent_limit: (C,) readings without a value that are still normal.
    """

    error_scale: Floats
    event_threshold: float
    level_threshold: float
    still_limit: Floats
    absent_limit: Floats


@dataclass(frozen=True)
class Judged:
    """What one reading of each of B streams came to.

    Attributes:
        score: (B,) the largest part.
        reason: (B,) its index in REASONS.
        attribution: (B, C) the channels' shares in that part; each row sums to 1.
        parts: (B, 4) all parts, in units of their thresholds.
    """

    score: Floats
    reason: NDArray[np.intp]
    attribution: Floats
    parts: Floats


def state_fields(channels: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """The fields of a stream's state that this module keeps: 20 bytes a channel and 4 more."""
    return [
        ("event", "<f4", ()),
        ("level", "<f4", (channels,)),
        ("baseline", "<f4", (channels,)),
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
        states: (B,) records with `state_fields`; changed in place.
        calibration: of the model that made the forecast.
    """
    observed = np.isfinite(values)
    strange = np.empty((PARTS, *values.shape))  # (4, B, C): each part's view of each channel
    z, q, still, absent = strange
    x = np.where(observed, deviation, 0.0)

    np.abs(x - forecast, out=z)
    z /= calibration.error_scale
    z *= observed
    event = states["event"].astype(np.float64)
    event += EVENT_GAIN * (pool(z) - event)
    states["event"] = np.minimum(event, EVENT_MEMORY * calibration.event_threshold)

    level = states["level"].astype(np.float64)
    towards = np.minimum(np.maximum(x, -LEVEL_LIMIT), LEVEL_LIMIT) - level
    towards *= observed
    level += LEVEL_GAIN * towards
    baseline = states["baseline"].astype(np.float64)
    away = level - baseline
    np.abs(away, out=q)
    states["level"] = level
    states["baseline"] = baseline + np.minimum(np.maximum(away, -BASELINE_STEP), BASELINE_STEP) / BASELINE_READINGS

    same = observed & (values == states["value"])
    readings_still = (states["still"] + same) * (same | ~observed)
    readings_absent = (states["absent"] + 1) * ~observed
    states["still"] = readings_still
    states["absent"] = readings_absent
    states["value"] = np.where(observed, values, states["value"])
    np.divide(readings_still, calibration.still_limit, out=still)
    np.divide(readings_absent, calibration.absent_limit, out=absent)

    parts = np.empty((len(values), PARTS))
    parts[:, 0] = event / calibration.event_threshold
    parts[:, 1] = pool(q) / calibration.level_threshold
    parts[:, 2] = still.max(axis=1)
    parts[:, 3] = absent.max(axis=1)
    reason = parts.argmax(axis=1)
    return Judged(parts.max(axis=1), reason, shares(strange[reason, np.arange(len(values))]), parts)


def pool(strangeness: Floats) -> Floats:
    """(B, C) to (B,): the fourth root of the sum of fourth powers."""
    squared = strangeness * strangeness
    return np.asarray(np.sqrt(np.sqrt((squared * squared).sum(axis=1))))


def shares(strangeness: Floats) -> Floats:
    """(B, C) to shares of the fourth powers, each row summing to 1; equal shares where nothing is strange."""
    largest = strangeness.max(axis=1, keepdims=True)
    relative = np.divide(strangeness, largest, out=np.ones_like(strangeness), where=largest > 0)
    powers = relative * relative
    powers *= powers
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
