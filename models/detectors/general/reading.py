"""One reading of each of B streams: looked at before it is taken in, and judged afterwards."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.asked import Asked
from gatewatch.models.detectors.detector import Floats, Records, Step, float32
from gatewatch.models.detectors.general.alert_budget import (
    at_rates,
    comes_again,
    joined,
    note_alerts,
    thresholds,
    young_thresholds,
)
from gatewatch.models.detectors.general.features import TINY, Seasonal
from gatewatch.models.detectors.general.misses import LARGEST_MISS, usual_miss
from gatewatch.models.detectors.general.score import (
    RANGE,
    RANGE_ALERT_READINGS,
    RANGE_NEWS,
    Noticed,
    judge_general,
    notice,
)
from gatewatch.models.detectors.general.shape import Shapes
from gatewatch.models.detectors.general.youth import Youth, youth_of
from gatewatch.models.detectors.incidents import JOIN_READINGS, conclude


class Rules(NamedTuple):
    """What a detector says of all its streams.

    Attributes:
        alerts_per_week: false alerts of a stream that are allowed.
        rare: mean misses that are as rare as the edge of the band.
        warm_up: readings that are not judged yet.
    """

    alerts_per_week: float
    rare: float
    warm_up: int


class Look(NamedTuple):
    """What is known of a reading of each of B streams before it is judged.

    Attributes:
        noticed: by score.py.
        threshold: (B,) T in nats of old streams.
        youth: of the channels, where one is younger than its stream.
        mid, half, residual: see Step.
    """

    noticed: Noticed
    threshold: Floats
    youth: Youth | None
    mid: Floats
    half: NDArray[np.float32]
    residual: NDArray[np.float32]

    def part(self, some: slice) -> Look:
        """Of some of the streams, none of which has young channels."""
        noticed, threshold, _, mid, half, residual = self
        return Look(noticed.part(some), threshold[some], None, mid[some], half[some], residual[some])


def look_at(
    values: Floats,
    now: Floats,
    by_day: Seasonal,
    due: Floats,
    shapes: Shapes,
    states: Records,
    rules: Rules,
    asked: Asked | None = None,
) -> Look:
    """Look at one reading of each of B streams, before `features.observe` takes it in.

    Args:
        values: (B, C) physical units, NaN where missing.
        now: (4, B, C) from `features.placed`.
        by_day: what the time of day lets expect, see `features.seasonal`.
        due: (B, C, horizons) what was forecast of it.
        shapes: with it, see `shape.take_shapes`.
        states: (B,) see `score.notice`.
        rules: of the detector.
        asked: what people ask of the streams.
    """
    readings = states["readings"].astype(np.int64)
    ahead = np.where(np.isfinite(due[..., 0]), due[..., 0], now[1])
    mid, usual = states["origin"] + ahead, np.maximum(usual_miss(states), TINY)
    half = float32(rules.rare * usual)
    unseen = states["count"] == 0
    if np.count_nonzero(unseen):
        mid[unseen], half[unseen] = np.nan, np.inf
    threshold = thresholds(states, _alerts(rules, asked))
    if asked is not None:
        threshold = at_rates(threshold, asked.false_alarm_rate)
    youth = youth_of(states, readings, threshold)
    noticed = notice(values, now, ahead, due, by_day, shapes, states, readings, youth)
    residual = np.minimum(np.maximum(noticed.missed / usual, -LARGEST_MISS), LARGEST_MISS).astype(np.float32)
    return Look(noticed, threshold, youth, mid, half, residual)


def judge(look: Look, states: Records, rules: Rules, asked: Asked | None = None) -> Step:
    """Score what was looked at, and count it.

    Args:
        look: from `look_at`.
        states: (B,) with the reading taken in; changed in place.
        rules, asked: as there.
    """
    noticed, threshold, youth, mid, half, residual = look
    within = states["calm"] < joined(threshold, JOIN_READINGS)
    judged = judge_general(noticed, states, young_thresholds(threshold, noticed.readings), within, youth)
    again = comes_again(states, judged.score, _alerts(rules, asked))
    if asked is None and not np.count_nonzero(judged.score > 1.0):
        states["inside"] = np.minimum(states["inside"] + 1, RANGE_ALERT_READINGS)
        return conclude(judged, mid, half, residual, states, rules.warm_up)
    outside = judged.parts[:, RANGE] > 1.0
    news = np.maximum.reduce(judged.signals, 1) > RANGE_NEWS
    worse = outside & (states["inside"] >= RANGE_ALERT_READINGS) & news
    states["inside"] = np.minimum(states["inside"] + 1, RANGE_ALERT_READINGS) * ~outside
    urgent = worse | ~within
    factors = None if asked is None else asked.sensitivity[:, None]
    step = conclude(judged, mid, half, residual, states, rules.warm_up, urgent | again, factors=factors)
    note_alerts(states, step.alert, step.alert & again & ~urgent)
    if asked is not None:
        asked.forget_runs(states)
    return step


def _alerts(rules: Rules, asked: Asked | None) -> Any:
    """False alerts a week that are allowed, of all or (B,) one each."""
    if asked is None:
        return rules.alerts_per_week
    alerts = np.where(np.isfinite(asked.alerts_per_week), asked.alerts_per_week, rules.alerts_per_week)
    return alerts.item() if len(alerts) == 1 else alerts
