"""Incidents: when one begins and ends, and which reading raises its alert. Shared by all detectors.

Anomalous readings that follow each other closely are one incident. What stands in a stream's state says how long ago it
was last anomalous, last raised an alert, and each channel was last anomalous by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import Floats, Records, Step, float32
from gatewatch.models.detectors.judged import Judged
from gatewatch.models.errors import ShapeError

OPEN_READINGS = 30
"""An incident stays open for so many normal readings after its last anomalous one."""

JOIN_READINGS = 200
"""Anomalous readings with fewer than so many normal ones between them are one incident, with one alert.

On NAB, 50 / 200 / 500 rows gave 66.7 / 67.1 / 67.9 points and none 62.5 (measured on a prototype)."""

JOIN_S, LEAST_JOIN = 4 * 3600, 8
"""Of a slower stream, those within four hours are one incident, but within 8 readings at least: 200 readings an hour
apart are 8 days, and all that happens in them would be one alert. Neither number was chosen by a measurement."""

LEAST_INTERVAL_S = 0.001

MOST_READINGS = np.uint32(2**32 - 1)
"""Counted of a stream; more are not."""


def calm_step(interval_s: float) -> int:
    """What a normal reading counts of OPEN_READINGS and JOIN_READINGS, in a stream with so many seconds between two."""
    joined = min(max(JOIN_S / interval_s, LEAST_JOIN), JOIN_READINGS)
    return round(JOIN_READINGS / joined)


def interval_calm(readings: int, passed_ms: int) -> int:
    """`calm_step` of so many readings that came in so much time."""
    return calm_step(max(passed_ms / 1000 / max(readings, 1), LEAST_INTERVAL_S))


def incident_fields(channels: int) -> list[Any]:
    """The fields of a stream's state that say how its incidents stand: 4 bytes, and 2 a channel.

    Readings, each counted as `calm_step` says, at most JOIN_READINGS, since the stream was last anomalous, since its
    last alert, and since each channel was last anomalous by itself.
    """
    return [("calm", "<u2"), ("told", "<u2"), ("channel_calm", "<u2", (channels,))]


def calms(states: Records) -> NDArray[np.uint16]:
    """(B, 2 + C) a view of what `incident_fields` keep, in their order."""
    return np.asarray(states.view(_calms(states.dtype))["calms"])


@lru_cache
def _calms(dtype: np.dtype[Any]) -> np.dtype[Any]:
    fields: Any = dtype.fields
    block = ("<u2", (2 + fields["channel_calm"][0].shape[0],))
    return np.dtype(
        {"names": ["calms"], "formats": [block], "offsets": [fields["calm"][1]], "itemsize": dtype.itemsize}
    )


def is_open(states: Records) -> NDArray[np.bool_]:
    """(B,) whether each stream's incident is open."""
    return np.asarray(states["calm"] < OPEN_READINGS)


def open_channels(states: Records) -> NDArray[np.bool_]:
    """(B, C) whether each channel has an incident of its own open."""
    return np.asarray(states["channel_calm"] < OPEN_READINGS)


def with_incidents_ended(states: Records) -> Records:
    """(B,) the same states with no incident to join: the next anomalous reading raises an alert."""
    ended = states.copy()
    calms(ended)[:] = JOIN_READINGS
    return ended


def unlearn(before: Records, after: Records) -> Records:
    """(B,) the states before readings that are to teach nothing, with the incidents as they stand after them.

    The clock stays too: for the model the streams were silent, and what comes after is as after a gap.
    """
    kept = before.copy()
    calms(kept)[:] = calms(after)
    return kept


def hold(before: Records, after: Records, learned: Sequence[str]) -> Records:
    """(B,) the states after readings that are followed, with what was normal before them, and their incidents open.

    Args:
        learned: the fields that say what is normal.
    """
    held = after.copy()
    for name in learned:
        held[name] = before[name]
    calm = calms(held)
    calm[:, 0] = np.minimum(calm[:, 0], OPEN_READINGS - 1)
    return held


def check_shapes(channels: int, values: Floats, timestamps_ms: NDArray[np.int64], states: Records) -> None:
    """Raise ShapeError unless there is one reading of so many channels, and one time, for each state."""
    if values.shape != (len(states), channels) or timestamps_ms.shape != states.shape:
        raise ShapeError(
            f"values {values.shape}, timestamps {timestamps_ms.shape}, states {states.shape}; "
            f"expected ({len(states)}, {channels}) and ({len(states)},)"
        )


def conclude(
    judged: Judged,
    mid: Floats,
    half: NDArray[np.float32],
    residual: NDArray[np.float32],
    states: Records,
    warm_up: int,
    urgent: NDArray[np.bool_] | np.bool_ = np.False_,
    step: int = 1,
    factors: Floats | None = None,
    again: bool = False,
) -> Step:
    """Status and alert of what was judged, counted in the states; `urgent` alerts within an open incident too.

    So does a channel that begins to stand still or to be missing, and one whose own incident begins, unless an
    alert has just gone out: what spreads from one channel to others is one incident.

    Args:
        warm_up: readings of a stream that are not judged yet.
        step: what a normal reading counts, see `calm_step`.
        factors: (B, 4) on the parts of the scores, or (B, 1); None where all are 1. What a reading teaches, the model's
            own threshold says, whatever the factor.
        again: what comes again after an incident has ended is told again JOIN_READINGS after the last alert; without,
            never while fewer part each time from the next. On the general model it costs NAB 1.9 points.
    """
    if factors is not None:
        judged = _scaled(judged, factors)
    readings, calm = states["readings"], calms(states)
    warm = readings >= warm_up
    strange = judged.score > 1.0
    calmer = np.minimum(calm + step, JOIN_READINGS)
    if np.count_nonzero(strange):
        anomalous = warm & strange
        alone = anomalous[:, None] if judged.alone is None else judged.alone & anomalous[:, None]
        begins = np.logical_or.reduce(alone & (calm[:, 2:] >= JOIN_READINGS), 1)
        begins |= np.False_ if judged.stops is None else judged.stops
        begins &= calm[:, 1] >= OPEN_READINGS
        if again:
            begins |= (calm[:, 0] >= OPEN_READINGS) & (calm[:, 1] >= JOIN_READINGS)
        alert = anomalous & ((calm[:, 0] >= JOIN_READINGS) | urgent | begins)
        calmer[:, 0] *= ~anomalous
        calmer[:, 1] *= ~alert
        calmer[:, 2:] *= ~alone
    else:
        anomalous = alert = strange
    states["readings"] = readings + (readings < MOST_READINGS)
    calm[:] = calmer
    return Step(
        score=float32(judged.score),
        status=warm.view(np.uint8) + anomalous,  # WARMING_UP 0, NORMAL 1, ANOMALOUS 2
        reason=judged.reason.astype(np.uint8),
        alert=alert,
        mid=mid,
        half=half,
        residual=residual,
        attribution=judged.attribution.astype(np.float32),
        parts=judged.parts,
        states=states,
    )


def _scaled(judged: Judged, factors: Floats) -> Judged:
    """What was judged, with its parts times (B, 4) or (B, 1) factors, and the score that follows.

    Above 1 a score is its largest part. Below, that of a trained model is another measure, which stays below 1.
    """
    parts = judged.parts * factors
    largest = judged.parts.argmax(axis=1)
    of_largest = np.broadcast_to(factors, parts.shape)[np.arange(len(parts)), largest]
    score, calm = np.maximum.reduce(parts, 1), np.minimum(judged.score * of_largest, 1.0)
    score = np.where((score > 1.0) | (judged.score > 1.0), score, calm)
    return dataclasses.replace(judged, parts=parts, score=score)
