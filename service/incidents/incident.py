"""Incident: opens with the reading that raises an alert, is updated by each anomalous one, and closes. Pure.

An incident is derived from the readings that were applied to its stream and is saved together with them, so that a
reading that is sent again changes nothing of it. Its id is the number of its first reading and the stream's name: the
same reading opens the same incident, whoever scores it.

A silence has no reading. Its number is, below 0, how many readings the stream had sent, and in its id an s stands
before that; see silence.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from gatewatch.models.detectors.detector import ANOMALOUS, REASONS
from gatewatch.service.core.history import Entries
from gatewatch.service.core.records import ALERT, ENDED, OPEN, REASON_BITS, STATUS_BITS
from gatewatch.service.incidents.rules import LIMIT_REASON, Breach

SILENT_REASON: Final = "silent"
"""Why an incident began that no reading raised: the stream sends no more."""

INCIDENT_REASONS: Final = (*REASONS, SILENT_REASON, LIMIT_REASON)

MOST_CHANNELS: Final = 16
"""Shown of an incident: those with the largest shares."""

MOST_ALERTS: Final = 32
"""Kept of an incident; of more, the first and the latest."""

CALM_SCORE: Final = 0.5
"""The onset is sought back to the last reading with a score up to this: half way to the threshold."""


class Scored(NamedTuple):
    """A reading of the past: its number, time and score."""

    n: int
    timestamp_ms: int
    score: float


def scored(entry: Any) -> Scored:
    """What an onset is sought by, of an entry of the history."""
    return Scored(int(entry["n"]), int(entry["timestamp_ms"]), float(entry["score"]))


class Share(msgspec.Struct, frozen=True):
    """A channel's part in an incident, at the reading with the highest score.

    Attributes:
        share: of the score, 0 to 1.
        direction: above or below what was expected; None where the value is missing or nothing was expected.
        expected: low, mid and high, in the channel's unit.
        actual: the value, in the channel's unit.
    """

    channel: str
    share: float
    direction: str | None
    expected: tuple[float, float, float] | None
    actual: float | None


class RaisedAlert(msgspec.Struct, frozen=True):
    """An alert that went out: with the incident's first reading, or when another channel joined in.

    Attributes:
        channel: with the largest share in that reading's score.
        direction, expected, actual: of that channel, as in Share; `expected` the middle alone.
    """

    timestamp_ms: int
    reason: str
    score: float
    channel: str
    direction: str | None
    expected: float | None
    actual: float | None


class Incident(msgspec.Struct, frozen=True):
    """What is anomalous on a stream, from its first reading to its last.

    Attributes:
        n: the number of the reading that raised the alert; below 0 of a silence.
        stream: the stream's name.
        model: digest of the model that found it.
        onset_ms: time of the first reading that was on its way to the alarm.
        start_ms: time of the reading that raised the alert.
        last_ms: time of the last anomalous reading; of an open silence, when the stream was last heard.
        end_ms: as last_ms once the incident has ended, else None.
        reason: of the reading with the highest score.
        peak_score, peak_ms: the highest score, and when.
        last_score: of the last anomalous reading.
        anomalous: how many readings were judged anomalous.
        judged: how many readings came from the first one to the last anomalous one.
        channels: those with a share, the largest first; none of a silence.
        alerts: those that went out.
        group: the id of the group that it belongs to, see groups.py; empty where it belongs to none.
        tag: what the streams of the group have in common, as site=north; empty where that is nothing.
        gate, gated: which gate closed last on one of its readings, and on how many; see rules.py.
        untold: why nobody was told of it yet: `window` or `cool_off`.
        window: the maintenance window that it began in.
        ruled: it began by rules, and not where the detector says.
        cooled: of one that nobody was told of, number and time of the last reading of one before that somebody was.
        tags: of its stream when it began, name to value.
        seen: the number of the last reading that these figures go up to; 0 of one that is written with each.
        closed: a person ended it: what comes after is another incident.
    """

    n: int
    stream: str
    model: str
    onset_ms: int
    start_ms: int
    last_ms: int
    end_ms: int | None
    reason: str
    peak_score: float
    peak_ms: int
    last_score: float
    anomalous: int
    judged: int
    channels: list[Share]
    alerts: list[RaisedAlert]
    group: str = ""
    tag: str = ""
    gate: str | None = None
    gated: int = 0
    untold: str | None = None
    window: str | None = None
    ruled: bool = False
    cooled: tuple[int, int] | None = None
    tags: dict[str, str] = {}
    seen: int = 0
    closed: bool = False

    @property
    def id(self) -> str:
        """Names the incident among all of its tenant."""
        return id_of(self.n, self.stream)

    @property
    def is_silence(self) -> bool:
        """Whether the stream sent nothing, and no reading raised it."""
        return self.n < 0

    @property
    def is_open(self) -> bool:
        """Whether it goes on."""
        return self.end_ms is None

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody was told that it is open, and waits for its end; of a group, of its first one."""
        return self.is_open and self.untold is None and self.group in ("", self.id)

    @property
    def last_n(self) -> int:
        """The number of its last reading that counts."""
        return self.n + self.judged - 1

    def with_alert(self, alert: RaisedAlert) -> Incident:
        """The incident after one more alert went out."""
        alerts = [*self.alerts, alert]
        return msgspec.structs.replace(self, alerts=alerts if len(alerts) <= MOST_ALERTS else [alerts[0], *alerts[2:]])


def id_of(n: int, stream: str) -> str:
    """The id of a stream's incident: 17.pump-7, or s17.pump-7 of a silence."""
    return f"{n}.{stream}" if n >= 0 else f"s{-n}.{stream}"


def number_and_stream(incident_id: str) -> tuple[int, str] | None:
    """What an id is made of; None where it is none."""
    n, dot, stream = incident_id.removeprefix("s").partition(".")
    if not (dot and n.isascii() and n.isdigit() and len(n) <= 20 and stream):
        return None
    return (-int(n) if incident_id.startswith("s") else int(n)), stream


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Incident)


def encode(incident: Incident) -> bytes:
    """As it is kept."""
    return _encoder.encode(incident)


def decode(kept: bytes) -> Incident | None:
    """What is kept; None where it cannot be read."""
    try:
        return _decoder.decode(kept)
    except (msgspec.MsgspecError, RecursionError):
        return None


def concerns(entries: Entries) -> Any:
    """(N,) whether a reading opens, goes on with or may end an incident."""
    return (entries["status"] & (ALERT | OPEN)) != 0


class Advanced(NamedTuple):
    """What readings made of a stream's incidents.

    Attributes:
        incidents: those that changed or began, in their order.
        alerts: number of the reading and alert, of those that are to be told.
    """

    incidents: list[Incident]
    alerts: list[tuple[int, RaisedAlert]]


def advance(
    incident: Incident | None,
    stream: str,
    entries: Entries,
    channels: Sequence[str],
    was_open: bool,
    before: Sequence[Scored] = (),
    back: int | None = None,
) -> Advanced:
    """What readings of a stream make of its latest incident.

    Args:
        incident: the stream's latest; None where it has none yet.
        entries: (K,) the readings, in their order, as they go into the history; K > 0.
        channels: (C,) what the columns of the entries belong to.
        was_open: an incident was open before the first of them.
        before: readings of the stream's history, see `sought`: the onset is sought there.
        back: how many readings an onset lies before the alarm at most, which is what a history keeps: so it is the same
            however readings are cut into batches. As many as there are if None.
    """
    changed: dict[int, Incident] = {}
    alerts: list[tuple[int, RaisedAlert]] = []
    for at, entry in enumerate(entries):
        status, n = int(entry["status"]), int(entry["n"])
        anomalous, alert = status & STATUS_BITS == ANOMALOUS, bool(status & ALERT)
        if incident is not None and n <= incident.n:
            continue  # it has seen this reading
        goes_on = was_open and incident is not None and incident.is_open  # else what is open was not told of
        tells = False
        if anomalous and alert and not goes_on:
            earlier = map(scored, entries[:at])
            if incident is not None and incident.is_open:  # of a state that was lost
                changed[incident.n] = msgspec.structs.replace(incident, end_ms=incident.last_ms)
            incident, tells = opened(stream, entry, channels, onset_of(entry, [*before, *earlier], back)), True
        elif anomalous and incident is not None and (goes_on or not (was_open or incident.closed)):
            incident, tells = gone_on(incident, entry, channels), alert
        elif incident is not None and incident.is_open and not status & OPEN:
            incident = msgspec.structs.replace(incident, end_ms=incident.last_ms)
        if incident is not None:
            if tells:
                raised = raised_by(incident, entry, channels)
                incident = incident.with_alert(raised)
                alerts.append((n, raised))
            changed[incident.n] = incident
        was_open = bool(status & OPEN) and not status & ENDED
    return Advanced(list(changed.values()), alerts)


def opened(
    stream: str,
    entry: Any,
    channels: Sequence[str],
    onset_ms: int,
    limit: bool = False,
    breach: Breach | None = None,
) -> Incident:
    """The incident that begins with a reading; nobody is told of it yet.

    Args:
        limit: the reading is outside a limit,
        breach: and which, as far as the limits are still there.
    """
    moment, score = int(entry["timestamp_ms"]), float(entry["score"])
    reason = _reason(entry, limit)
    return Incident(
        n=int(entry["n"]),
        stream=stream,
        model=bytes(entry["model"]).hex(),
        onset_ms=onset_ms,
        start_ms=moment,
        last_ms=moment,
        end_ms=None,
        reason=reason,
        peak_score=score,
        peak_ms=moment,
        last_score=score,
        anomalous=1,
        judged=1,
        channels=shares_of(entry, channels, breach),
        alerts=[],
    )


def gone_on(
    incident: Incident, entry: Any, channels: Sequence[str], limit: bool = False, breach: Breach | None = None
) -> Incident:
    """The incident after one more reading that counts. One with a reading outside a limit keeps that as its reason."""
    moment, score = int(entry["timestamp_ms"]), float(entry["score"])
    changes: dict[str, Any] = {
        "last_ms": max(moment, incident.last_ms),
        "end_ms": None,
        "last_score": score,
        "anomalous": incident.anomalous + 1,
        "judged": int(entry["n"]) - incident.n + 1,
    }
    limited = incident.reason == LIMIT_REASON
    if score > incident.peak_score:
        changes |= {"peak_score": score, "peak_ms": moment, "channels": shares_of(entry, channels, breach)}
        changes["reason"] = LIMIT_REASON if limited else _reason(entry, limit)
    elif limit and not limited:
        changes |= {"reason": LIMIT_REASON, "channels": shares_of(entry, channels, breach)}
    return msgspec.structs.replace(incident, **changes)


def _reason(entry: Any, limit: bool) -> str:
    return LIMIT_REASON if limit else REASONS[entry["reason"] & REASON_BITS]


def raised_by(
    incident: Incident, entry: Any, channels: Sequence[str], limit: bool = False, breach: Breach | None = None
) -> RaisedAlert:
    """The alert of a reading of an incident. What stands still or is missing is neither above nor below.

    Args:
        incident: after the reading.
        limit, breach: as of `opened`.
    """
    is_first = incident.n == int(entry["n"])
    worst = (incident.channels if is_first else shares_of(entry, channels, breach))[0]
    reason = _reason(entry, limit)
    return RaisedAlert(
        timestamp_ms=int(entry["timestamp_ms"]),
        reason=reason,
        score=float(entry["score"]),
        channel=worst.channel,
        direction=None if reason in ("still", "absent") else worst.direction,
        expected=worst.expected[1] if worst.expected else None,
        actual=worst.actual,
    )


def shares_of(entry: Any, channels: Sequence[str], breach: Breach | None = None) -> list[Share]:
    """The channels that have a share in a reading's score, the largest first; ahead of them one outside its limits.

    In numbers and not in arrays, which take four times as long for the few channels of most streams.
    """
    shares = [0.0 if math.isnan(share) else share for share in entry["attribution"].tolist()]
    values, mids, halves = (entry[name].tolist() for name in ("values", "mid", "half"))
    found: list[Share] = []
    order = sorted(range(len(shares)), key=shares.__getitem__, reverse=True)
    if breach is not None:
        order.remove(breach.channel)
        order.insert(0, breach.channel)
    for at in order[:MOST_CHANNELS]:
        if shares[at] <= 0 and found:
            break
        value, mid, half = values[at], mids[at], halves[at]
        known, there = math.isfinite(mid) and math.isfinite(half), math.isfinite(value)
        direction = None if not (known and there) or value == mid else "above" if value > mid else "below"
        if breach is not None and at == breach.channel:
            direction = breach.direction
        band = (mid - half, mid, mid + half) if known else None
        found.append(Share(channels[at], shares[at], direction, band, value if there else None))
    return found


def sought(newest_first: Iterable[Any]) -> list[Scored]:
    """Those readings of the past where an onset is sought, in their order: from the last one with a calm score on."""
    found: list[Scored] = []
    for entry in newest_first:
        found.append(scored(entry))
        if found[-1].score <= CALM_SCORE:
            break
    return found[::-1]


def begins_another(incident: Incident | None, entries: Entries, was_open: bool) -> bool:
    """Whether an incident begins with one of (K,) readings of a stream; the arguments are those of `advance`."""
    goes_on = was_open and incident is not None and incident.is_open
    for status in entries["status"].tolist():
        if status & ALERT and not goes_on:
            return True
        goes_on = bool(status & OPEN) and not status & ENDED
    return False


def onset_of(entry: Any, earlier: Sequence[Scored], back: int | None = None) -> int:
    """Time of the first of the readings right before an alarm, `back` at most, whose scores are on their way to it."""
    onset_ms, alarm = int(entry["timestamp_ms"]), int(entry["n"])
    for n, moment, score in reversed(earlier):
        if n < alarm:
            if score <= CALM_SCORE or (back is not None and n < alarm - back):
                break
            onset_ms = moment
    return onset_ms
