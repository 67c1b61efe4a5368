"""Quiet: what a stream's people called a false alarm, and how far its like may go; see incidents/likeness.py."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from gatewatch.models.detectors.budget_loop import GAIN, MOST, WEEK_MS
from gatewatch.service.incidents.incident import Incident
from gatewatch.service.incidents.likeness import MARGIN, Allowance
from gatewatch.service.incidents.rules import LIMIT_REASON, NO_DIRECTION

SCORE_MARGIN: Final = 4.0
"""Of the part of the score, which for one size is two or three times as large as for another time; of 1.5, 2 and 4 the
one with which the fewest come back on every second stream of benchmarks.labels, with as many faults missed."""

QUIET_DAYS: Final = 182
"""For so long a label counts; then its like is told again, and may be labelled again."""

MOST_QUIET: Final = 64
"""Of a stream; of more, the latest are kept."""

MOST_NUMBER: Final = 1e300

_DAY_MS: Final = 86_400_000


class Quiet(BaseModel):
    """A channel of a false alarm, and how far its like may go without an incident."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    incident: Annotated[str, Field(min_length=1, max_length=160)] = Field(description="id of the false alarm")
    channel: Annotated[str, Field(min_length=1, max_length=256)]
    direction: Literal["above", "below"] | None = Field(
        description="side to which it went; null for what stands still or is absent"
    )
    deviation: float = Field(
        strict=True,
        ge=0,
        le=1e300,
        allow_inf_nan=False,
        description="most that a reading may be off, in the channel's unit; within its band it may be",
    )
    score: float = Field(
        strict=True, ge=0, le=1e300, allow_inf_nan=False, description="most: the channel's part of the score"
    )
    until: float = Field(
        strict=True, ge=0, le=1e12, allow_inf_nan=False, description="of readings up to this time, Unix seconds"
    )
    readings: int | None = Field(
        None,
        strict=True,
        ge=1,
        le=1_000_000_000,
        description="most from its largest step on, beside the normal ones after which an incident ends; null for any",
    )

    @property
    def allowance(self) -> Allowance:
        """As rules take it."""
        return Allowance(self.channel, self.direction, self.deviation, self.score, 1000 * self.until, self.readings)


class Fault(BaseModel):
    """An incident that was labelled true, and the factor of the budget loop with which its like still alerts."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    incident: Annotated[str, Field(min_length=1, max_length=160)] = Field(description="its id")
    factor: float = Field(
        strict=True, gt=0, le=1, allow_inf_nan=False, description="the loop's factor goes no lower than this"
    )


Labelled = TypeVar("Labelled", Quiet, Fault)


class Reading(NamedTuple):
    """A reading of an incident, or on the way to it: its values, and its result as the history has it."""

    values: Mapping[str, float | None]
    result: Mapping[str, Any]

    def off(self, channel: str) -> float | None:
        """A channel's value minus what was expected; None where it was absent, or nothing was."""
        value, band = self.values.get(channel), self.result["expected"].get(channel)
        return None if value is None or band is None or band[1] is None else value - band[1]

    def step(self, channel: str) -> float:
        """The same where it is outside of the band, else 0."""
        off, band = self.off(channel), self.result["expected"].get(channel)
        if off is None or band is None or band[0] is None or band[2] is None:
            return 0.0
        return 0.0 if abs(off) <= band[2] - band[1] else off

    def half(self, channel: str) -> float:
        """Half the width of a channel's band; 0 where there is none."""
        band = self.result["expected"].get(channel)
        return band[2] - band[1] if band and band[1] is not None and band[2] is not None else 0.0

    def strange(self) -> dict[str, float]:
        """The channels that were strange enough by themselves, or the strangest, and their parts of the score."""
        parts = {channel: share * self.result["score"] for channel, share in self.result["attribution"].items()}
        names = [name for name, part in parts.items() if part > 1.0] or sorted(parts, key=lambda one: -parts[one])[:1]
        return {name: parts[name] for name in names}


def at_peak(incident: Incident) -> Reading:
    """The reading with an incident's highest score, as the incident shows it itself."""
    shown = incident.channels
    result = {
        "status": "anomalous",
        "score": incident.peak_score,
        "reason": incident.reason,
        "attribution": {one.channel: one.share for one in shown},
        "expected": {one.channel: list(one.expected) for one in shown if one.expected is not None},
    }
    return Reading({one.channel: one.actual for one in shown}, result)


def quiet_of(incident: Incident, readings: Sequence[Reading]) -> list[Quiet]:
    """What is like a false alarm, from now on for QUIET_DAYS of the stream's time.

    Args:
        readings: that are kept, from the incident's onset to its last one, in their order.
    """
    if incident.reason == LIMIT_REASON:  # a limit matters whatever is said of one incident
        return []
    every = [*readings, at_peak(incident)]
    placed: dict[str, float] = {}
    stood: dict[str, float] = {}
    for one in every:
        if one.result["status"] == "anomalous":
            of = stood if one.result["reason"] in NO_DIRECTION else placed
            for channel, part in one.strange().items():
                of[channel] = max(of.get(channel, 1.0), part)
    sides: list[tuple[str, Literal["above", "below"] | None, float, float]] = []
    for channel, part in placed.items():
        alerted = [] if readings else _alerted(incident, channel)
        went, farthest = _went([*alerted, *(one.step(channel) for one in every)])
        if farthest == 0.0:  # no reading was outside of its band
            farthest = max(one.half(channel) for one in every)
        both: tuple[Literal["above", "below"], ...] = ("above", "below")
        sides += [(channel, side, farthest, part) for side in both if went == 0.0 or (went > 0) == (side == "above")]
    sides += [(channel, None, 0.0, part) for channel, part in stood.items()]
    until = (incident.last_ms + QUIET_DAYS * _DAY_MS) / 1000
    return [
        Quiet(
            incident=incident.id,
            channel=channel,
            direction=side,
            deviation=min(MARGIN * farthest, MOST_NUMBER),
            score=min(SCORE_MARGIN * part, MOST_NUMBER),
            until=until,
            readings=math.ceil(MARGIN * incident.judged),
        )
        for channel, side, farthest, part in sides
    ]


def _alerted(incident: Incident, channel: str) -> list[float]:
    """How far a channel was off at the alerts of an incident."""
    own = [one for one in incident.alerts if one.channel == channel and one.reason not in NO_DIRECTION]
    return [one.actual - one.expected for one in own if one.actual is not None and one.expected is not None]


def _went(steps: Iterable[float]) -> tuple[float, float]:
    """The largest of steps, where one to the other side must be MARGIN times as large; and how far any went."""
    largest = farthest = 0.0
    for step in steps:
        farthest = max(farthest, abs(step))
        if abs(step) > abs(largest) * (1.0 if step * largest > 0 else MARGIN):
            largest = step
    return largest, farthest


def fault_of(incident: Incident, level: float, at_ms: int, held: float) -> Fault:
    """What is like a true alarm: what would score as high. Errs towards telling.

    Args:
        level: of the budget loop at a time before the incident.
        held: alerts a week that it holds.
    """
    raised = min(level + GAIN * held * max(incident.peak_ms - at_ms, 0) / WEEK_MS, math.log(MOST))
    return Fault(incident=incident.id, factor=min(math.exp(raised) / max(incident.peak_score, 1.0), 1.0))


def with_label(before: list[Labelled], incident_id: str, like: list[Labelled]) -> list[Labelled]:
    """What labels come to once an incident has got another one; `like` it nothing, where it is of another kind."""
    kept = [one for one in before if one.incident != incident_id]
    return (kept + like)[-MOST_QUIET:]
