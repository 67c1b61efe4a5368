"""From the alerts a week that are allowed to a threshold, by how many readings a stream sends in a week.

The pace of a stream is its mean time between readings, over the last 100 or so. Bursts of one timestamp count as
readings; an outage must not: with the time δ since the reading before and a typical time f between two timestamps,

    f *= e^±g  towards δ > 0,  g = max(4/(n + 1), 0.05);    p' = min(p + (min(δ, 8f) - p)/min(n, 100), 4f)

f is a running median, which a wild first interval misleads for some 20 readings, and no later one.

Streams count rarity on themselves (models.rarity), and a young one has counted too little: limits of 10 nats are passed
14 to 29 times as often as they say before the 128th reading, 4 to 5 times around the 800th, once or twice after four
weeks (events and levels of 390 synthetic streams). After n readings the thresholds are therefore at least

    T_k = min(T, T_w) + Y_k e^(-n/450) max(T_w - 4.5, 0)/3

whatever the pace, where T_w is the T of a stream of 2,016 readings a week: the first 2,016 may raise what a week may. A
budget of ten alerts a week needs no such care.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Records = NDArray[Any]

PACE_READINGS = 100.0
LONGEST, SLOWEST = 8.0, 4.0
LEAST_STEP = 0.05

WEEK_MS = 7 * 86_400_000
RATE, RATE_POWER, SMALL_POWER = 1.0, 1.4, 3.5
"""e^-T = RATE alerts^RATE_POWER / readings a week; SMALL_POWER below one alert. Alerts join, so that large budgets need
more than their share; some come of what is normal (a first trend, a new level), so that small ones need less. Fitted,
as what follows, on the first week of 990 synthetic streams."""

WEEK_READINGS = 2016
YOUNG_NATS, YOUNG_READINGS = np.array([10.0, 20.0, 5.5]), 450.0
"""Of events, of what lasts and of the range, so that an alert is about as likely at every age. The range, which finds a
spike of 30 spreads at once, is to have most of what is allowed before the 64th reading."""

SURE_NATS, UNSURE_NATS = 4.5, 7.5

LEAST_RATE, LARGEST_RATE = 1e-7, 0.0025
"""The second, for each alert a week allowed: a stream of few readings does not get what it has no tail to tell by."""

JOIN_SHARE, LEAST_JOIN = 0.5, 30
"""Incidents are as far apart as half the mean distance that the budget has for them, but so many readings at least."""


def budget_fields() -> list[tuple[str, str]]:
    """The fields of a stream's state that this module keeps: 8 bytes."""
    return [("between_ms", "<f4"), ("pace_ms", "<f4")]


def take_time(states: Records, timestamps_ms: NDArray[np.int64], readings: NDArray[np.integer[Any]]) -> None:
    """Learn the pace of B streams from the time of one more reading; `last_ms` is still that of the one before."""
    elapsed = np.where(readings > 0, timestamps_ms - states["last_ms"], 0).astype(np.float64)
    typical = states["between_ms"].astype(np.float64)
    step = np.maximum(4 / (readings + 1.0), LEAST_STEP)
    towards = np.where(elapsed > typical, np.minimum(typical * np.exp(step), elapsed), typical * np.exp(-step))
    towards = np.where(elapsed <= typical, np.maximum(towards, elapsed), towards)
    forward = elapsed > 0
    typical = np.where(forward, np.where(typical > 0, towards, elapsed), typical)
    pace = states["pace_ms"].astype(np.float64)
    gain = (readings > 0) / np.minimum(np.maximum(readings, 1), PACE_READINGS)
    pace += gain * (np.minimum(elapsed, LONGEST * typical) - pace)
    states["between_ms"] = typical
    states["pace_ms"] = np.minimum(pace, SLOWEST * typical)


def thresholds(states: Records, alerts_per_week: float) -> Floats:
    """(B,) T in nats, for an alert budget, at each stream's own pace."""
    rate = _weekly(alerts_per_week) * states["pace_ms"].astype(np.float64) / WEEK_MS
    return np.asarray(-np.log(np.minimum(np.maximum(rate, LEAST_RATE), min(LARGEST_RATE * alerts_per_week, 0.1))))


def young_thresholds(threshold: Floats, readings: NDArray[np.integer[Any]], alerts_per_week: float) -> Floats:
    """(B, 3) T_k of events, of what lasts and of the range, for streams that have seen so many readings."""
    week = -math.log(_weekly(alerts_per_week) / WEEK_READINGS)
    unsure = max(week - SURE_NATS, 0.0) / (UNSURE_NATS - SURE_NATS)
    more = unsure * np.exp(readings / -YOUNG_READINGS)
    return np.maximum(threshold[:, None], np.minimum(threshold, week)[:, None] + YOUNG_NATS * more[:, None])


def _weekly(alerts_per_week: float) -> float:
    """How often a week a threshold is to be passed, so that so many alerts come of it."""
    return float(RATE * alerts_per_week ** (SMALL_POWER if alerts_per_week < 1 else RATE_POWER))


def joined(threshold: Floats, most: int) -> Floats:
    """(B,) readings within which what is anomalous belongs to one incident: `most`, fewer if the budget is large."""
    return np.minimum(np.maximum(JOIN_SHARE * np.exp(threshold), LEAST_JOIN), most)
