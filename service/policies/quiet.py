"""Quiet: what a stream's people called a false alarm, and what is like it.

An anomaly is like a false alarm if each channel that is strange enough by itself is one of those of the false alarm,
off to a side to which it was, by no more than MARGIN times as much as ever in it, and with no more than MARGIN times
the part of the score.
What stands still or is absent is like what did.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from gatewatch.models.detectors.budget_loop import GAIN, MOST, WEEK_MS
from gatewatch.service.incidents.incident import Incident
from gatewatch.service.incidents.rules import LIMIT_REASON, NO_DIRECTION, Allowance

MARGIN: Final = 1.5
"""Of size and score. The false alarm that comes back is seldom of exactly the size that it had."""

QUIET_DAYS: Final = 182
"""For so long a label counts; then its like is told again, and may be labelled again."""

MOST_QUIET: Final = 64
"""Of a stream; of more, the latest are kept."""

_DAY_MS: Final = 86_400_000


class Quiet(BaseModel):
    """A channel of a false alarm, and how far its like may go without an incident."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    incident: Annotated[str, Field(min_length=1, max_length=160)] = Field(description="id of the false alarm")
    channel: Annotated[str, Field(min_length=1, max_length=256)]
    direction: Literal["above", "below"] | None = Field(
        description="side of what was expected; null for what stands still or is absent"
    )
    deviation: float = Field(
        strict=True, ge=0, le=1e300, allow_inf_nan=False, description="most, in the channel's unit"
    )
    score: float = Field(
        strict=True, ge=0, le=1e300, allow_inf_nan=False, description="most: the channel's part of the score"
    )
    until: float = Field(
        strict=True, ge=0, le=1e12, allow_inf_nan=False, description="of readings up to this time, Unix seconds"
    )

    @property
    def allowance(self) -> Allowance:
        """As rules take it."""
        return Allowance(self.channel, self.direction, self.deviation, self.score, 1000 * self.until)


class Fault(BaseModel):
    """An incident that was labelled true, and the factor of the budget loop with which its like still alerts."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    incident: Annotated[str, Field(min_length=1, max_length=160)] = Field(description="its id")
    factor: float = Field(
        strict=True, gt=0, le=1, allow_inf_nan=False, description="the loop's factor goes no lower than this"
    )


Labelled = TypeVar("Labelled", Quiet, Fault)


class Strange(NamedTuple):
    """A channel that was strange enough by itself at a reading of an incident, or the strangest.

    Attributes:
        off: value minus what was expected; None for what stood still or was absent.
        part: its share of the score, times the score.
    """

    channel: str
    off: float | None
    part: float


def strange_in(values: Mapping[str, float | None], result: Mapping[str, Any]) -> list[Strange]:
    """The channels that were strange at a reading, from its answer as the history has it."""
    parts = {channel: share * result["score"] for channel, share in result["attribution"].items()}
    names = [channel for channel, part in parts.items() if part > 1.0] or sorted(parts, key=lambda one: -parts[one])[:1]
    found = []
    for channel in names:
        value, band = values.get(channel), result["expected"].get(channel)
        middle = band[1] if band else None
        off = None if value is None or middle is None or result["reason"] in NO_DIRECTION else value - middle
        found.append(Strange(channel, off, parts[channel]))
    return found


def strange_at_peak(incident: Incident) -> list[Strange]:
    """The channels that were strange at the highest score of an incident, as it shows them itself."""
    parts = [(one, one.share * incident.peak_score) for one in incident.channels]
    found = []
    for one, part in [(one, part) for one, part in parts if part > 1.0] or parts[:1]:
        off = None
        if one.actual is not None and one.expected is not None and incident.reason not in NO_DIRECTION:
            off = one.actual - one.expected[1]
        found.append(Strange(one.channel, off, part))
    return found


def quiet_of(incident: Incident, strange: Iterable[Strange]) -> list[Quiet]:
    """What is like a false alarm, from now on for QUIET_DAYS of the stream's time.

    Args:
        strange: of the incident's highest score, and of its anomalous readings that are kept.
    """
    if incident.reason == LIMIT_REASON:  # a limit matters whatever is said of one incident
        return []
    most: dict[tuple[str, Literal["above", "below"] | None], tuple[float, float]] = {}
    for channel, off, part in strange:
        side: Literal["above", "below"] | None = None if off is None else "above" if off > 0 else "below"
        deviation, score = most.get((channel, side), (0.0, 0.0))
        most[channel, side] = max(deviation, abs(off or 0.0)), max(score, part)
    until = (incident.last_ms + QUIET_DAYS * _DAY_MS) / 1000
    return [
        Quiet(
            incident=incident.id,
            channel=channel,
            direction=side,
            deviation=MARGIN * deviation,
            score=MARGIN * max(score, 1.0),
            until=until,
        )
        for (channel, side), (deviation, score) in most.items()
    ]


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
