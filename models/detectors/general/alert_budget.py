"""From the alerts a week that are allowed to a threshold, by how many readings a stream sends in a week.

The pace of a stream is its mean time between readings, over the last 100 or so. Bursts of one timestamp count as
readings; an outage must not: with the time δ since the reading before and a typical time f between two timestamps,

    f *= e^±g  towards δ > 0,  g = max(4/(n + 1), 0.05);    p' = min(p + (min(δ, 8f) - p)/min(n, 100), 4f)

f is a running median, which a wild first interval misleads for some 20 readings, and no later one.

A young stream has counted too little to know what is rare (models.detectors.general.tail). After n readings T is
therefore at least YOUNG_NATS e^(-n/YOUTH_READINGS), whatever the budget and the pace: nothing alerts merely because it
is new.

What comes again within an incident, after REST_READINGS that were not anomalous, is told again if it scores AGAIN or
more. Of such repeats a stream has REPEATS, which come back at the rate of the alerts allowed: five incidents on the
first bad day are told, and not five a day for ever.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.operands import Functions, operands

Float64Array = NDArray[np.float64]
Records = NDArray[Any]

PACE_READINGS = 100.0
LONGEST, SLOWEST = 8.0, 4.0
LEAST_STEP = 0.05

WEEK_MS = 7 * 86_400_000
RATE, RATE_POWER, SMALL_POWER = 1.1, 1.3, 1.8
"""e^-T = RATE alerts^RATE_POWER / readings a week. Alerts join, so that large budgets need more than their share; some
come of what is normal (a first trend, a new level), so that small ones need less: SMALL_POWER below one alert a week,
with which half an alert is kept within a factor 1.5 over the first eight weeks. Fitted on synthetic streams."""

YOUNG_NATS, YOUTH_READINGS = np.array([30.0, 16.0]), 150.0
"""Of what is counted, and of the range, whose nats are few in few readings anyhow. The T of one alert a week, at a
reading in five minutes, is as high after 208 and 114 readings. Chosen on 1,300 synthetic streams: 3 % alert within 64
readings (7 % without), and a spike of 30 spreads after 40 readings is found in 86 % (95 %)."""

LEAST_RATE, LARGEST_RATE, LARGEST_SHARE = 1e-7, 0.0025, 0.1
"""The second, for each alert a week allowed: a stream of few readings does not get what it has no tail to tell by."""

REST_READINGS, AGAIN, REPEATS = 10, 1.2, 8.0
"""Of eight like events 2 to 5 h apart on eight kinds of synthetic streams, one reading in five minutes, 5.8 are found
and 4.8 told; with 20 and 1.35, 3.2; without repeats 1.5. It costs 1.4 points of NAB, with 0.68 instead of 0.58 false
alerts a week. With 1.0 for AGAIN, 5.4 are told, and normal streams raise 1.57 times the alerts allowed, not 1.37."""

JOIN_SHARE, LEAST_JOIN = 0.5, 30
"""Incidents are as far apart as half the mean distance that the budget has for them, but so many readings at least."""


def budget_fields() -> list[tuple[str, str]]:
    """The fields of a stream's state that this module keeps: 13 bytes.

    `rested` tells whether the stream has been calm since its last alert, `repeats` how many are left.
    """
    return [("between_ms", "<f4"), ("pace_ms", "<f4"), ("repeats", "<f4"), ("rested", "?")]


def take_pace(states: Records, elapsed_ms: NDArray[np.int64], readings: NDArray[np.integer[Any]]) -> None:
    """Learn the pace of B streams from the time since the reading before, see models.detectors.clock.take_time."""
    of, (typical, pace, elapsed, n) = operands(states["between_ms"], states["pace_ms"], elapsed_ms, readings)
    states["between_ms"], states["pace_ms"] = paced(of, typical, pace, of.where(elapsed >= 0, elapsed, typical), n)


def paced(of: Functions, typical: Any, pace: Any, elapsed: Any, n: Any) -> tuple[Any, Any]:
    """f' and p' after the n-th reading and a time since the one before; arrays (B,) or numbers."""
    step = of.larger(4 / (n + 1.0), LEAST_STEP)
    longer, shorter = of.smaller(typical * of.exp(step), elapsed), of.larger(typical * of.exp(-step), elapsed)
    towards = of.where(typical > 0, of.where(elapsed > typical, longer, shorter), elapsed)
    typical = of.where(elapsed > 0, towards, typical)
    gain = (n > 0) / of.smaller(of.larger(n, 1.0), PACE_READINGS)
    pace = pace + gain * (of.smaller(elapsed, LONGEST * typical) - pace)
    return typical, of.smaller(pace, SLOWEST * typical)


def comes_again(states: Records, score: Float64Array, alerts_per_week: float | Float64Array) -> NDArray[np.bool_]:
    """(B,) whether what scores so much is to be told again within its incident; earns what repeats the time allows."""
    of, (repeats, pace) = operands(states["repeats"], states["pace_ms"])
    states["repeats"] = earned(of, repeats, alerts_per_week, pace)
    rested = states["rested"]
    rested |= states["calm"] >= REST_READINGS
    return np.asarray(rested & (score > AGAIN) & (states["repeats"] >= 1.0))


def earned(of: Functions, repeats: Any, alerts_per_week: Any, pace_ms: Any) -> Any:
    """Repeats after one more reading; arrays (B,) or numbers."""
    return of.smaller(repeats + alerts_per_week / WEEK_MS * pace_ms, REPEATS)


def note_alerts(states: Records, alert: NDArray[np.bool_], repeated: NDArray[np.bool_]) -> None:
    """Take (B,) alerts in, some of which were repeats."""
    states["rested"] &= ~alert
    states["repeats"] -= repeated


def thresholds(states: Records, alerts_per_week: float | Float64Array) -> Float64Array:
    """(B,) T in nats, for an alert budget of all or (B,) one each, at each stream's own pace."""
    of, (pace,) = operands(states["pace_ms"])
    return np.atleast_1d(threshold_at(of, alerts_per_week, pace))


def threshold_at(of: Functions, alerts_per_week: Any, pace_ms: Any) -> Any:
    """T in nats for an alert budget at a pace; arrays (B,) or numbers."""
    rate = of.larger(_power(alerts_per_week) * pace_ms / WEEK_MS, LEAST_RATE)
    return -of.log(of.smaller(rate, of.smaller(LARGEST_RATE * alerts_per_week, LARGEST_SHARE)))


def at_rates(threshold: Float64Array, rates: Float64Array) -> Float64Array:
    """(B,) T in nats, for (B,) shares of readings that may be judged anomalous, where such a share is given."""
    asked = np.isfinite(rates)
    share = np.minimum(np.maximum(np.where(asked, rates, 1.0), LEAST_RATE), LARGEST_SHARE)
    return np.where(asked, -np.log(share), threshold)


def kept(states: Records, alerts_per_week: float | Float64Array) -> NDArray[np.bool_]:
    """(B,) whether an alert budget can be kept at the pace of each stream: so rare an alert can be told at all."""
    pace = states["pace_ms"].astype(np.float64)
    return np.asarray((_power(alerts_per_week) * pace / WEEK_MS >= LEAST_RATE) | (pace <= 0))


def _power(alerts: float | Float64Array) -> float | Float64Array:
    if isinstance(alerts, np.ndarray):  # number by number: the same bits as of one for all
        return np.array([_power(each) for each in alerts.tolist()])
    return float(RATE * alerts ** (RATE_POWER if alerts >= 1 else SMALL_POWER))


def young_thresholds(threshold: Float64Array, readings: NDArray[np.integer[Any]]) -> Float64Array:
    """(..., 2) T of what is counted and of the range, for (...) readings seen and a T of (...)."""
    least = YOUNG_NATS * np.exp(readings / -YOUTH_READINGS)[..., None]
    return np.asarray(np.maximum(threshold[..., None], least))


def joined(threshold: Float64Array, most: int) -> Float64Array:
    """(B,) readings within which what is anomalous belongs to one incident: `most`, fewer if the budget is large."""
    of, (nats,) = operands(threshold)
    return np.asarray(of.smaller(of.larger(JOIN_SHARE * of.exp(nats), LEAST_JOIN), most))
