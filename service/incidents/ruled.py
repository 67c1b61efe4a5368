"""Ruled: what readings make of the incidents of a stream of which something is asked. Pure.

Where nothing is asked, the detector says when an incident begins and ends (incident.py). Here it says only which
readings are anomalous; the rules say which of them count, and the incident itself when it begins, ends and is told:

- An anomaly begins with a reading that counts. Once it has lasted `minimum` it is an incident, at once if a limit was
  passed. Until then it is pending, which nobody sees.
- A reading that counts goes on with the latest incident if less than `merge` lies between; without `merge`, if that is
  open, or the detector takes it for the same.
- An incident ends when `merge` has passed without a reading that counts; without it, when the detector's ends or, if
  gates are closed on the rest, after as many readings as end the detector's.
- It is told with its first reading, or later: once no window and no cooling-off is in the way, and it still goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gatewatch.models.detectors.detector import ANOMALOUS
from gatewatch.models.detectors.incidents import JOIN_READINGS, OPEN_READINGS, interval_calm
from gatewatch.service.core.history import Entries
from gatewatch.service.core.records import ALERT, ENDED, KEPT, OPEN, STATUS_BITS
from gatewatch.service.incidents.incident import Incident, RaisedAlert, Scored, gone_on, onset_of, opened, raised_by
from gatewatch.service.incidents.rules import (
    GATES,
    LIMIT,
    LIMIT_IN_WINDOW,
    LIMIT_REASON,
    NO_RULES,
    Breach,
    Rules,
    Span,
    counts,
    gate_of,
)


class Pending(msgspec.Struct, frozen=True, array_like=True):
    """An anomaly that has not lasted long enough to be an incident.

    Attributes:
        onset_ms: as of an incident.
        first_n, begin_ms: number and time of the first reading that counts.
        last_n, last_ms: number and time of the last one.
        readings: how many count.
    """

    onset_ms: int
    first_n: int
    begin_ms: int
    last_n: int
    last_ms: int
    readings: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Pending)


def encode_pending(pending: Pending | None) -> bytes:
    """As it is kept; nothing for none."""
    return b"" if pending is None else _encoder.encode(pending)


def decode_pending(kept: bytes) -> Pending | None:
    """What is kept; None where that cannot be read."""
    try:
        return _decoder.decode(kept) if kept else None
    except msgspec.MsgspecError:
        return None


@dataclass
class Fold:
    """The incidents of one stream, moved on by readings.

    Attributes:
        incident: the latest one.
        pending: what may become one.
        was_open: whether the detector's was open before the next reading.
        earlier: readings before the next one, where onsets are sought,
        back: and how many of them at most.
        changed: every incident that changed or began, in their order, by number.
        alerts: number of the reading and alert, of those that are to be told.
        has_ended: an incident ended, though it may have gone on since.
    """

    stream: str
    channels: tuple[str, ...]
    rules: Rules
    incident: Incident | None
    pending: Pending | None
    was_open: bool
    earlier: list[Scored]
    back: int | None = None
    changed: dict[int, Incident] = field(default_factory=dict)
    alerts: list[tuple[int, RaisedAlert]] = field(default_factory=list)
    has_ended: bool = False

    @property
    def is_told(self) -> bool:
        """Whether an incident is open that people were told of."""
        return self.incident is not None and self.incident.is_open and self.incident.untold is None

    @property
    def is_held(self) -> bool:
        """Whether the next reading has to look at it, whatever the detector says."""
        return self.is_told != self.was_open or (
            self.incident is not None and self.incident.is_open and not self.is_told
        )

    def goes_on(self, n: int) -> bool:
        """Whether an incident is open after reading n, or may still become one."""
        if self.incident is not None and self.incident.is_open:
            return True
        return self.pending is not None and n - self.pending.last_n < OPEN_READINGS

    def take(self, entries: Entries) -> None:
        """Go on with (K,) readings of the stream, in their order."""
        for entry in entries:
            status, n = int(entry["status"]), int(entry["n"])
            if self.incident is None or n > self.incident.last_n:
                if counts(entry):
                    self._count(entry, status)
                elif self.incident is not None and self.incident.is_open:
                    self._pass(entry, status, self.incident)
            self.was_open = bool(status & OPEN) and not status & ENDED
            self.earlier.append(Scored(n, int(entry["timestamp_ms"]), float(entry["score"])))

    def _count(self, entry: Any, status: int) -> None:
        """A reading that counts."""
        n, time_ms = int(entry["n"]), int(entry["timestamp_ms"])
        limit = gate_of(entry) in (LIMIT, LIMIT_IN_WINDOW)
        breach = self.rules.breach(entry, self.channels) if limit else None
        latest = self.incident
        if latest is not None and self._joins(latest, n, time_ms, status):
            incident = gone_on(latest, entry, self.channels, limit, breach)
            window = self.rules.window_at(time_ms)
            if latest.untold is not None or (window is not None and not latest.is_open):
                reason = self._untold(time_ms, n, latest.cooled)
                incident = msgspec.structs.replace(incident, untold=reason, cooled=latest.cooled if reason else None)
                tells = reason is None
            else:
                tells = bool(status & ALERT) and window is None
            self._keep(incident, entry, breach, tells)
            return
        pending = self._pended(entry, n, time_ms)
        minimum = self.rules.minimum
        if not limit and minimum is not None and not minimum.reached(pending.readings, time_ms - pending.begin_ms):
            self.pending = pending
            return
        self.pending = None
        if latest is not None and latest.is_open:  # too long has passed
            self.changed[latest.n] = msgspec.structs.replace(latest, end_ms=latest.last_ms)
        incident = opened(self.stream, entry, self.channels, pending.onset_ms, limit, breach)
        cooled = None
        if latest is not None:
            cooled = (latest.last_n, latest.last_ms) if latest.untold is None else latest.cooled
        untold = self._untold(time_ms, n, cooled)
        kept = None if untold is None else cooled
        incident = msgspec.structs.replace(
            incident,
            untold=untold,
            cooled=kept,
            window=self.rules.window_at(time_ms),
            ruled=self.rules is not NO_RULES,
        )
        self._keep(incident, entry, breach, untold is None)

    def _keep(self, incident: Incident, entry: Any, breach: Breach | None, tells: bool) -> None:
        if tells:
            alert = raised_by(incident, entry, self.channels, gate_of(entry) in (LIMIT, LIMIT_IN_WINDOW), breach)
            incident = incident.with_alert(alert)
            self.alerts.append((int(entry["n"]), alert))
        self.incident = self.changed[incident.n] = incident

    def _pass(self, entry: Any, status: int, incident: Incident) -> None:
        """A reading that does not count while an incident is open."""
        if status & STATUS_BITS == ANOMALOUS:  # a gate is closed on it
            incident = msgspec.structs.replace(incident, gate=GATES[gate_of(entry)], gated=incident.gated + 1)
        if not status & KEPT and self._ends(incident, int(entry["n"]), int(entry["timestamp_ms"]), bool(status & OPEN)):
            incident = msgspec.structs.replace(incident, end_ms=incident.last_ms)
            self.has_ended = True
        if incident is not self.incident:
            self.incident = self.changed[incident.n] = incident

    def _pended(self, entry: Any, n: int, time_ms: int) -> Pending:
        """The anomaly that a reading begins, or goes on with."""
        pending, merge = self.pending, self.rules.merge
        if pending is not None and n > pending.last_n:
            between, passed_ms = n - pending.last_n - 1, time_ms - pending.last_ms
            if merge is None:  # that the detector's is open may be by a gated reading, long after
                quiet = calm(pending.last_n, pending.last_ms, n - 1, time_ms)
                joins = between == 0 or (self.was_open and quiet < OPEN_READINGS)
            else:
                joins = not merge.reached(between, passed_ms)
            if joins:
                last_ms = max(time_ms, pending.last_ms)
                first = (pending.onset_ms, pending.first_n, pending.begin_ms)
                return Pending(*first, n, last_ms, pending.readings + 1)
        return Pending(onset_of(entry, self.earlier, self.back), n, time_ms, n, time_ms, 1)

    def _joins(self, latest: Incident, n: int, time_ms: int, status: int) -> bool:
        """Whether a reading that counts goes on with the latest incident."""
        if latest.is_open and (self.rules.merge is None or status & KEPT):
            return True
        if latest.closed:
            return False
        if self.rules.merge is not None:
            return not self.rules.merge.reached(n - latest.last_n - 1, time_ms - latest.last_ms)
        return not status & ALERT and calm(latest.last_n, latest.last_ms, n - 1, time_ms) < JOIN_READINGS

    def _ends(self, incident: Incident, n: int, time_ms: int, detector_open: bool) -> bool:
        """Whether an open incident ends with a reading that does not count."""
        quiet = n - incident.last_n
        if self.rules.merge is not None:
            return self.rules.merge.reached(quiet, time_ms - incident.last_ms)
        if incident.reason == LIMIT_REASON:
            return calm(incident.last_n, incident.last_ms, n, time_ms) >= OPEN_READINGS
        return quiet >= OPEN_READINGS or not detector_open

    def _untold(self, time_ms: int, n: int, cooled: tuple[int, int] | None) -> str | None:
        """Why nobody is to be told of an incident now."""
        if self.rules.window_at(time_ms) is not None:
            return "window"
        cool_off: Span | None = self.rules.cool_off
        if cool_off is None or cooled is None:
            return None
        return None if cool_off.reached(n - cooled[0] - 1, time_ms - cooled[1]) else "cool_off"


def calm(last_n: int, last_ms: int, n: int, time_ms: int) -> int:
    """Readings since the last one that counted, up to number n, of a slow stream each for several: see `calm_step`."""
    readings = n - last_n
    return readings * interval_calm(readings, time_ms - last_ms)


def may_begin(rules: Rules, incident: Incident | None, pending: Pending | None, entries: Entries) -> bool:
    """Whether an anomaly may begin with (K,) readings, so that its onset is sought in the history."""
    if incident is not None and incident.is_open and rules.merge is None and not _may_end(incident, entries):
        return False
    last = incident if incident is not None and rules.merge is not None and not incident.closed else None
    place = None if last is None else (last.last_n, last.last_ms)
    for entry in entries:
        if not counts(entry):
            continue
        n, time_ms = int(entry["n"]), int(entry["timestamp_ms"])
        if place is not None and rules.merge is not None and last is not None:
            held = last.is_open and int(entry["status"]) & KEPT
            if held or not rules.merge.reached(n - place[0] - 1, time_ms - place[1]):
                place = (n, max(time_ms, place[1]))
                continue
        return pending is None or n > pending.last_n + 1
    return False


def _may_end(incident: Incident, entries: Entries) -> bool:
    """Whether an open incident may end with one of (K,) readings, where anomalies are not merged."""
    for entry in entries:
        status, quiet = int(entry["status"]), int(entry["n"]) - incident.last_n
        if not (counts(entry) or status & KEPT) and (
            quiet >= OPEN_READINGS or not status & OPEN or incident.reason == LIMIT_REASON
        ):
            return True
    return False


def fold(
    rules: Rules,
    stream: str,
    channels: Sequence[str],
    incident: Incident | None,
    pending: Pending | None,
    was_open: bool,
    entries: Entries,
    before: Sequence[Scored] = (),
    back: int | None = None,
) -> Fold:
    """What readings of a stream make of its incidents; see Fold, and `advance` of incident.py for the arguments."""
    made = Fold(stream, tuple(channels), rules, incident, pending, was_open, [*before], back)
    made.take(entries)
    return made
