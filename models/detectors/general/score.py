"""From readings and general forecasts to an anomaly score, without anything learned of the stream beforehand.

The score is the largest of some parts, each in units of its threshold, so that 1.0 is the alarm edge. A part of T nats
comes as rarely as e^-T, by what the stream itself has shown; T follows from the alerts a week that are allowed, see
models.detectors.general.alert_budget.

    event    the larger of two. Misses: u_c = (mean of s(e_ch / S_ch) + s(e_cτ / S_cτ)) / 2, where e_ch is how far
             the forecast of h readings ago missed, e_cτ the table of the time of day, S the mean of such misses so
             far, and s(z) = -ln P(|t₃| > z), Student's t with 3 degrees of freedom;  a_c' = a_c + (u_c - a_c)/3
             r = rarity of ‖a‖₄                                                  r/(T + ln 4)
             A jump, one reading far from what was expected (jumps.py): rarity of the largest nats / (T + ln 4)
    level    events last:    r̄' = r̄ + (r - r̄) 2/41                              2r̄/T
             the level left its home, or the activity changed (shifts.py):  rarity of ‖·‖₄ / (T + ln 4)
    still    a channel does not move: readings since it last changed / (3 C^(1 - ρ) · its longest such run + 30),
             ρ the share of its readings that were changes: of C channels that mostly rest, one always breaks a record
    absent   a channel is missing: readings since it was last seen / (3 · its longest such run + 30)
             Both until 300 readings behind the limit; then the channel is set apart, and counts no more.
    shape    a cycle is wrong (shape.py):  rarity of ‖·‖₄ / (T + ln 4), not within a window of what other parts found
    range    x is outside all its values so far by a share ε > 0.02 of their range:  (ln(n/2C) + 10 ε n/(n + 200))/T
             In a stream's first 200 readings or so its T is another, see models.detectors.general.alert_budget;
             a channel that came later is judged alone, by its own age, until it is old (youth.py).

Why so. The mean is learned and its error measured: a network that predicts its own spread explains anomalies away.
S never forgets, for a scale that follows the last errors makes bursts normal. Four horizons and the table surprise
more surely than one. Rarity is counted on the stream itself (models.detectors.general.tail), so that heavy tails and
bad forecasts only cost sensitivity, not false alarms. The newest of n like readings lies outside all others with
probability 2/n, and farther out ever more rarely. ‖·‖₄ pools the channels: one of 38 is enough, and 38 slightly odd
ones are too.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.general.features import HORIZONS, Seasonal
from gatewatch.models.detectors.general.jumps import begin_jumps, jump_fields, jump_nats
from gatewatch.models.detectors.general.misses import (
    errors_of,
    healed,
    miss_lessons,
    misses_after,
    surprise_after,
    surprises,
)
from gatewatch.models.detectors.general.runs import outside_range, take_runs
from gatewatch.models.detectors.general.shape import MOST_SPAN, Shapes
from gatewatch.models.detectors.general.shifts import lasting_fields, strayed
from gatewatch.models.detectors.general.tail import COUNTERS, LEAST, LEAST_JUMP, count, jump_rarity, place_of, rarity
from gatewatch.models.detectors.general.youth import Youth
from gatewatch.models.detectors.judged import Judged, pool, shares
from gatewatch.models.detectors.operands import ARRAYS, Functions

Float64Array = NDArray[np.float64]
Records = NDArray[Any]
Fields = list[tuple[str, str] | tuple[str, str, tuple[int, ...]]]

LASTING_GAIN = 2 / 41
LASTING_FACTOR = 2.0
"""A mean of forty readings is as strange as one of them at half of its nats."""

EVENT, SHAPE_SIZE, JUMP = 0, 3, 4
KINDS, OF_OLD_COUNTERS = 5, (0, 1, 2, JUMP)
"""Kinds that are counted, and those that versions before `shape` counted."""

YOUNG_READINGS = np.array([64.0, 200.0, 200.0, 200.0])
"""Of event, level, activity and shape. Means of 40 readings are known later than single ones."""

MORE_NATS = np.log(4.0)
"""The kinds that are counted share the budget. With the whole of it for events, NAB has 109 false alerts instead of 93
for the same windows. They are five (event, level, activity, shape, jump), of which few streams have all: with ln 5 for
each, NAB loses 2.4 points and has 0.05 false alerts a week fewer."""

MOST_NATS = 2.5
"""For each unit of size, of what lasts: a little larger than ever, as a counter's level always is, is not rare."""

RANGE_ALERT_READINGS, RANGE_NEWS = 50, 0.05
"""Within an incident a reading outside the range alerts too, so many readings after the last and by this share of the
range: the incident has become worse than anything before it. On NAB, without: four windows of 50 missed."""

FORECAST_LIMIT = 50.0
"""Steps; a forecast farther from the last value is cut there."""

LASTING, RANGE, SHAPE = 1, 4, 5
"""Their places among the parts, see models.detectors.detector.REASONS: `level` stands for all that lasts."""

LARGEST_PART = 1e6

_HORIZONS = np.array(HORIZONS)
DUE = np.cumsum([0, *HORIZONS[:-1]]) + np.arange(math.lcm(*HORIZONS))[:, None] % _HORIZONS
"""(30, 4) by the number of a reading."""


def surprise_fields(channels: int) -> Fields:
    """The fields of a stream's state that this module keeps: 276 bytes a channel and 966 more.

    `sound` counts readings, at most MOST_SPAN, since a part but `shape` was anomalous.
    """
    misses = len(HORIZONS) + 1
    return [
        ("ahead", "<f4", (channels, sum(HORIZONS))),
        ("miss", "<f4", (channels, misses)),
        ("misses", "<u4", (channels, misses)),
        ("surprise", "<f4", (channels,)),
        ("lasting", "<f4"),
        ("counted", "<f4", (KINDS, COUNTERS)),
        ("sound", "<u2"),
        ("still", "<u4", (channels,)),
        ("absent", "<u4", (channels,)),
        ("longest_still", "<u4", (channels,)),
        ("longest_absent", "<u4", (channels,)),
        ("changes", "<u4", (channels,)),
        *jump_fields(channels),
        *lasting_fields(channels),
    ]


def begin_surprise(states: Records) -> None:
    """Turn states, all 0, into those of streams that have not seen a reading."""
    states["ahead"] = np.nan
    begin_jumps(states)


def forget_forecasts(states: Records, which: NDArray[np.bool_]) -> None:
    """Of the streams marked, take no forecast made before for one of what comes now."""
    states["ahead"][which] = np.nan


def remember_forecasts(states: Records, forecasts: Float64Array, turn: NDArray[np.integer[Any]]) -> None:
    """Keep forecasts (B, C, horizons), from the origins, until their readings come; `turn` (B,) counts readings."""
    if len(turn) == 1:
        states["ahead"][..., DUE[turn.item() % len(DUE)]] = forecasts
    else:
        states["ahead"][_due(turn)] = forecasts.swapaxes(1, 2)


def due_forecasts(states: Records, turn: NDArray[np.integer[Any]]) -> Float64Array:
    """(B, C, horizons) what was forecast 1, 3, 10 and 30 readings ago of the `turn`-th reading; NaN where nothing."""
    if len(turn) == 1:
        return np.asarray(states["ahead"].take(DUE[turn.item() % len(DUE)], 2).astype(np.float64))
    return np.asarray(states["ahead"][_due(turn)].swapaxes(1, 2).astype(np.float64))


def _due(turn: NDArray[np.integer[Any]]) -> tuple[Any, ...]:
    """Where in `ahead` the forecasts of a reading stand, (B, horizons, C) of them."""
    return np.arange(len(turn))[:, None], slice(None), DUE[turn % len(DUE)]


class Noticed(NamedTuple):
    """What one reading of each of B streams shows, before it is held against what was counted.

    Attributes:
        readings: (B,) how many readings each stream has seen.
        seen: (B,) whether there is anything to judge.
        kinds: (KINDS, B, C) how strange each channel is.
        size: (B, KINDS) the same, pooled.
        runs: (2, B, C) how long each has stood still and been missing, in units of what is usual for it.
        stops: (B,) whether a channel begins to stand still, or to be missing, beyond its limit; None if none does.
        outside: (B, C) nats of having left its range so far.
        excess: (B, C) the share ε of its range by which.
        missed: (B, C) reading minus expectation; 0 where missing.
        shapes: with the reading.
    """

    readings: NDArray[np.integer[Any]]
    seen: NDArray[np.bool_]
    kinds: Float64Array
    size: Float64Array
    runs: Float64Array
    stops: NDArray[np.bool_] | None
    outside: Float64Array
    excess: Float64Array
    missed: Float64Array
    shapes: Shapes

    def part(self, some: slice) -> Noticed:
        """Of some of the streams."""
        readings, seen, kinds, size, runs, stops, outside, excess, missed, shapes = self
        stops = None if stops is None else stops[some]
        shapes = Shapes(shapes.size[some], shapes.span[some], shapes.whole[some])
        outside, excess, missed = outside[some], excess[some], missed[some]
        return Noticed(
            readings[some],
            seen[some],
            kinds[:, some],
            size[some],
            runs[:, some],
            stops,
            outside,
            excess,
            missed,
            shapes,
        )


def notice(
    values: Float64Array,
    now: Float64Array,
    mid: Float64Array,
    due: Float64Array,
    seasonal: Seasonal,
    shapes: Shapes,
    states: Records,
    readings: NDArray[np.integer[Any]],
    youth: Youth | None = None,
) -> Noticed:
    """Look at one reading of each of B streams, before `features.observe` takes it in.

    Args:
        values: (B, C) physical units; NaN is missing.
        now: (4, B, C) from `features.placed`.
        mid: (B, C) what was expected of it, from the origins.
        due: (B, C, horizons) forecasts of it from the origins, NaN where there is none.
        seasonal: what the time of day lets expect, see `features.seasonal`.
        shapes: with the reading, see `shape.take_shapes`.
        states: (B,) records with `surprise_fields` and `running_fields`; the former are changed in place, but for
            `lasting`, `counted` and `sound`.
        readings: (B,) how many readings each stream has seen.
        youth: of the channels, where one is younger than its stream.
    """
    streams, channels = values.shape
    observed = np.isfinite(values)
    told = observed & (states["count"] > 0)
    x, _, change, _ = now
    kinds = np.empty((KINDS, streams, channels))
    leap = np.abs(change)
    error, known, taught = errors_of(x, due, seasonal, told)
    known &= states["misses"] > 0
    lessons = miss_lessons(error, taught, seasonal, states)
    mean, usual = misses_after(states["miss"].astype(np.float64), *lessons)
    states["miss"] = healed(mean, states)
    states["misses"] += taught
    u, jump = surprises(error, known, usual, leap)
    surprise = surprise_after(states["surprise"].astype(np.float64), u, told)
    states["surprise"] = surprise
    kinds[EVENT] = surprise * told
    kinds[1], kinds[2] = strayed(x, leap, observed, states)
    kinds[SHAPE_SIZE] = shapes.size * observed
    kinds[:JUMP] /= channels**0.25
    kinds[JUMP] = jump_nats(jump, told, states)
    size = np.empty((streams, KINDS))
    size[:, :JUMP], size[:, JUMP] = pool(kinds[:JUMP]).T, np.maximum.reduce(kinds[JUMP], 1)
    runs, stops = take_runs(change, observed, states)
    known_for = readings[:, None] if youth is None else youth.readings
    outside, excess = outside_range(x, told, states, known_for)
    seen = np.logical_or.reduce(told, 1)
    return Noticed(readings, seen, kinds, size, runs, stops, outside, excess, (x - mid) * told, shapes)


def judge_general(
    noticed: Noticed,
    states: Records,
    threshold: Float64Array,
    within: NDArray[np.bool_],
    youth: Youth | None = None,
) -> Judged:
    """Score what was noticed of one reading of each of B streams.

    Args:
        states: (B,) records with `lasting`, `counted` and `sound`, which are changed in place.
        threshold: (B, 2) T in nats, of what is counted and of `range`: another only while a stream is young.
        within: (B,) whether an incident is under way.
        youth: of the channels, where one is younger than its stream.

    Returns:
        The score and its parts; its signals are (B, C), the shares ε of their range that channels lie outside.
    """
    readings, seen, _, _, runs, stops, outside, excess, missed, shapes = noticed
    sound = states["sound"] * shapes.whole
    kinds, size = heard(noticed, sound)
    _, streams, channels = kinds.shape
    nats, place = nats_at(size, states["counted"], readings)
    limit = threshold[:, :1] + MORE_NATS
    if youth is not None:
        _heed_youth(nats, kinds, states["counted"], readings, limit, youth)
    rare = nats > limit
    by_itself = _alone(kinds, states["counted"], readings, limit, rare, youth)
    if youth is not None:  # what is told of a channel goes by its own limit
        kinds = kinds * (limit / (youth.threshold[..., 0] + MORE_NATS))
    count(place, states["counted"], counts(size, seen), rare & within[:, None], limit)
    lasting = lasting_after(states["lasting"].astype(np.float64), nats[:, EVENT], seen)
    states["lasting"] = lasting

    lasts = nats / limit
    parts = np.empty((streams, 6))
    at_once = np.where(lasts[:, JUMP] > lasts[:, EVENT], JUMP, EVENT)
    rows = np.arange(streams)
    parts[:, EVENT] = lasts[rows, at_once]
    parts[:, SHAPE] = lasts[:, SHAPE_SIZE]
    lasts = lasts[:, :SHAPE_SIZE]
    lasts[:, EVENT] = LASTING_FACTOR * lasting / threshold[:, 0]
    parts[:, LASTING] = np.maximum.reduce(lasts, 1)
    if np.count_nonzero(seen) < streams:
        parts[~seen, :2] = 0.0
    strange = np.empty((6, streams, channels))
    strange[EVENT] = kinds[at_once, rows]
    strange[LASTING] = kinds[lasts.argmax(axis=1), rows]
    strange[2:4] = runs
    strange[RANGE] = outside / (threshold[:, 1:] if youth is None else youth.threshold[..., 1])
    strange[SHAPE] = kinds[SHAPE_SIZE]
    parts[:, 2:SHAPE] = np.maximum.reduce(strange[2:SHAPE], 2).T
    parts = np.minimum(np.maximum(parts, 0.0), LARGEST_PART)
    states["sound"] = sound_after(ARRAYS, sound, np.maximum.reduce(parts[:, :SHAPE], 1))
    telling = parts.copy()
    telling[:, LASTING] *= np.maximum.reduce(parts[:, 2:4], 1) <= 1.0  # a dead sensor is that, not a new level
    reason = np.where(parts[:, RANGE] > 1.0, RANGE, telling.argmax(axis=1))  # it alerts by itself, and is then the news
    score = np.maximum.reduce(parts, 1)
    alone = None
    if np.count_nonzero(score > 1.0):
        alone = np.logical_or.reduce(strange[2:SHAPE] > 1.0)
        alone = alone if by_itself is None else alone | by_itself
    return Judged(score, reason, shares(strange[reason, rows]), parts, missed, alone, stops, excess)


def heard(noticed: Noticed, sound: NDArray[np.integer[Any]]) -> tuple[Float64Array, Float64Array]:
    """`kinds` and `size`, without shapes whose windows hold what other parts judged anomalous, or a gap.

    Args:
        sound: (B,) readings since then.
    """
    kinds, size = noticed.kinds, noticed.size
    muted = (kinds[SHAPE_SIZE] > 0.0) & (sound[:, None] < noticed.shapes.span)
    if np.count_nonzero(muted):
        kinds, size = kinds.copy(), size.copy()
        np.copyto(kinds[SHAPE_SIZE], 0.0, where=muted)
        size[:, SHAPE_SIZE] = pool(kinds[SHAPE_SIZE])
    return kinds, size


def counts(size: Float64Array, seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(B, KINDS) of which kinds a reading counts: all of what is seen, but shapes only where there is one."""
    told = np.repeat(seen[:, None], KINDS, 1)
    told[:, SHAPE_SIZE] &= size[:, SHAPE_SIZE] > 0.0
    return told


def sound_after(of: Functions, sound: Any, others: Any) -> Any:
    """Readings since a part but `shape` was anomalous, after one with such parts; arrays (B,), or numbers."""
    return of.smaller(sound + 1, MOST_SPAN) * (others <= 1.0)


def lasting_after(lasting: Any, nats: Any, seen: Any) -> Any:
    """r̄' after a reading; arrays (B,), or numbers."""
    return lasting + LASTING_GAIN * (nats - lasting) * seen


def nats_at(
    size: Float64Array, counted: NDArray[np.float32], readings: NDArray[np.integer[Any]]
) -> tuple[Float64Array, Float64Array]:
    """Rarity and places of (B, KINDS) sizes."""
    nats, place = np.zeros(size.shape), np.zeros(size.shape)
    nats[:, :JUMP], place[:, :JUMP] = rarity(size[:, :JUMP], counted[:, :JUMP], readings, YOUNG_READINGS)
    nats[:, 1:JUMP] = np.minimum(nats[:, 1:JUMP], MOST_NATS * size[:, 1:JUMP])
    jumped = np.flatnonzero(size[:, JUMP])
    if len(jumped):
        nats[jumped, JUMP], place[jumped, JUMP] = jump_rarity(size[jumped, JUMP], counted[jumped, JUMP])
    return nats, place


def places_of(size: Float64Array) -> Float64Array:
    """(B, KINDS) where sizes stand among the counters, as `nats_at` says."""
    places = np.zeros(size.shape)
    places[:, :JUMP] = place_of(size[:, :JUMP], LEAST)
    jumped = np.flatnonzero(size[:, JUMP])
    places[jumped, JUMP] = place_of(size[jumped, JUMP], LEAST_JUMP)
    return places


def _heed_youth(
    nats: Float64Array,
    sizes: Float64Array,
    counted: NDArray[np.float32],
    readings: NDArray[np.integer[Any]],
    limit: Float64Array,
    youth: Youth,
) -> None:
    """Judge channels that are younger than their streams by their own ages; changes (B, KINDS) `nats` of such streams.

    The others are pooled as if those were not there. A young one is judged alone, and its nats count as its limit is
    to that of the stream.

    Args:
        sizes: (KINDS, B, C).
    """
    for row in np.flatnonzero(np.logical_or.reduce(youth.young, 1)).tolist():
        young = youth.young[row]
        others = sizes[:, row] * ~young  # (KINDS, C)
        size = np.append(pool(others[:JUMP]), np.maximum.reduce(others[JUMP]))[None]
        old, _ = nats_at(size, counted[row : row + 1], readings[row : row + 1])
        each = _nats_of_each(sizes[:, row], counted[row], youth.readings[row])[young]
        each *= limit[row] / (youth.threshold[row, young, :1] + MORE_NATS)
        nats[row] = np.maximum(old[0], np.maximum.reduce(each, 0))


def _nats_of_each(
    sizes: Float64Array, counted: NDArray[np.float32], readings: NDArray[np.integer[Any]]
) -> Float64Array:
    """(C, KINDS) rarity of each channel of a stream, if all others are as usual.

    Args:
        sizes: (KINDS, C).
        counted: (KINDS, COUNTERS).
        readings: (C,) that each channel is known for.
    """
    return nats_at(sizes.T, np.broadcast_to(counted, (sizes.shape[1], *counted.shape)), readings)[0]


def _alone(
    sizes: Float64Array,
    counted: NDArray[np.float32],
    readings: NDArray[np.integer[Any]],
    limit: Float64Array,
    rare: NDArray[np.bool_],
    youth: Youth | None,
) -> NDArray[np.bool_] | None:
    """(B, C) whether the (KINDS, B, C) sizes of a channel are rare enough if all others are as usual.

    Looked at only where those of all channels together are, (B, KINDS) `rare`; None if they nowhere are.
    """
    if not np.count_nonzero(rare):
        return None
    alone = np.zeros(sizes.shape[1:], bool)
    for row in np.flatnonzero(np.logical_or.reduce(rare, 1)).tolist():
        if youth is None:
            known_for, own = np.broadcast_to(readings[row], sizes.shape[2]), limit[row]
        else:
            known_for, own = youth.readings[row], youth.threshold[row, :, :1] + MORE_NATS
        alone[row] = np.logical_or.reduce(_nats_of_each(sizes[:, row], counted[row], known_for) > own, 1)
    return alone
