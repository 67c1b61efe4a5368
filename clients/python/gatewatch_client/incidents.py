"""Incidents as they change, heard from the service over server-sent events.

IncidentFeed knows where to go on and what was told already. It reads nothing itself: both clients open the connections,
hand it the lines that come, and do what it says when a connection ends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from .delivery import AGAIN, growing_waits, problem_detail
from .errors import Refused

EVENTS = "/v1/incidents/stream"
SILENCE_S = 45.0
"""Without a byte for so long the connection is given up; the service sends one every 15 s."""

OVERLAP_MS = 5000
"""A new connection goes on from so long before the last event: processes of a service write their own times."""

REMEMBERED = 1000
"""Incidents whose last change is known when it comes again."""


@dataclass(frozen=True, slots=True)
class IncidentChannel:
    """A channel's part in an incident, at its highest score.

    Attributes:
        share: of the score, 0 to 1.
        direction: `above` or `below` what was expected; None where the value is missing.
        expected: low, mid and high, in the channel's unit.
        actual: the value, in the channel's unit.
    """

    channel: str
    share: float
    direction: str | None
    expected: tuple[float, ...] | None
    actual: float | None


@dataclass(frozen=True, slots=True)
class Incident:
    """What is anomalous on a stream, as it is at present; docs/http-api.md has the words. Times are RFC 3339.

    Attributes:
        state: `open` or `ended`.
        start: when its alert went out.
        last: its last anomalous reading so far; `end` is the same once it has ended.
        reason: the part of the score that was largest at the peak.
        channels: the largest share first.
        label: what people say that it was: `true`, `false_alarm` or `expected`.
        acknowledged_by: who has seen it; may be empty. None: nobody.
        notes: what people wrote.
        fields: all that the service says of it, as JSON.
    """

    id: str
    stream: str
    state: str
    model: str
    start: str
    last: str
    end: str | None
    reason: str
    peak: str
    peak_score: float
    channels: tuple[IncidentChannel, ...]
    label: str | None
    acknowledged_by: str | None
    notes: tuple[str, ...]
    fields: Mapping[str, Any]

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Incident:
        """Read an incident as the service shows it. Raises LookupError or TypeError for what is none."""
        seen = found["acknowledged"]
        return cls(
            **{name: found[name] for name in ("id", "stream", "state", "model", "start", "last", "end", "reason")},
            peak=found["peak"],
            peak_score=found["peak_score"],
            channels=tuple(
                IncidentChannel(
                    one["channel"],
                    one["share"],
                    one["direction"],
                    None if one["expected"] is None else tuple(one["expected"]),
                    one["actual"],
                )
                for one in found["channels"]
            ),
            label=found["label"],
            acknowledged_by=None if seen is None else str(seen["by"]),
            notes=tuple(one["text"] for one in found["notes"]),
            fields=found,
        )


class IncidentFeed:
    """Where a listener stands in the changes of incidents."""

    def __init__(self, since: datetime | float | None) -> None:
        """Begin with what changed since a time (Unix seconds, or with a zone), or with what changes from now on."""
        if isinstance(since, datetime):
            since = since.timestamp()
        self._since_ms = None if since is None else max(0, round(since * 1000))
        self._told: dict[str, Incident] = {}  # by id, as they were told last; that of the oldest change first
        self._waits = growing_waits()
        self._id, self._data = "", list[str]()

    def headers(self) -> dict[str, str]:
        """Of the next request."""
        asked = {"accept": "text/event-stream"}
        return asked if self._since_ms is None else asked | {"last-event-id": str(self._since_ms)}

    def opened(self, headers: Mapping[str, str]) -> None:
        """Begin with the lines of a new connection. Raises Refused where it has no events."""
        if not headers.get("content-type", "").startswith("text/event-stream"):
            raise Refused(f"{EVENTS} has no events; is this the address of a Gatewatch service?")
        self._waits = growing_waits()
        self._id, self._data = "", []
        if self._since_ms is None:  # whatever changes from now on is heard, also where this connection breaks at once
            try:
                now_ms = round(parsedate_to_datetime(headers["date"]).timestamp() * 1000)
            except (LookupError, ValueError, TypeError):
                return
            self._since_ms = now_ms

    def take(self, line: str) -> Incident | None:
        """Read the next line; the incident that it completes, if it is one that was not told as it is now."""
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id" and value.isdigit():
            self._id = value
        elif name == "data":
            self._data.append(value)
        elif not line and self._data:
            at, incident = self._id, _incident("\n".join(self._data))
            self._id, self._data = "", []
            if at:
                self._since_ms = max(self._since_ms or 0, int(at) - OVERLAP_MS)
            if self._told.pop(incident.id, None) != incident:
                self._told[incident.id] = incident
                if len(self._told) > REMEMBERED:
                    del self._told[next(iter(self._told))]
                return incident
            self._told[incident.id] = incident
        return None

    def pause_s(self, status: int, body: bytes, retry_after_s: float | None) -> float:
        """Seconds until the next attempt, after an answer that has no events. Raises Refused where none would help."""
        if status not in AGAIN:
            raise Refused(f"the service answered {status}: {problem_detail(body)}")
        return max(retry_after_s or 0.0, self.next_wait_s())

    def next_wait_s(self) -> float:
        """Seconds until the next attempt, after a connection that ended."""
        return next(self._waits)


def _incident(data: str) -> Incident:
    try:
        return Incident.of(json.loads(data))
    except (ValueError, LookupError, TypeError) as error:
        raise Refused(f"{EVENTS} tells of what is no incident: {data:.200}") from error
