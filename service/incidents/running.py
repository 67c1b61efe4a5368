"""Running: open incidents as they stand after the last reading, while Redis has them as they were written last.

To write an incident with each of its readings costs more than to score them. So it is written when people would see a
difference, and otherwise once in a while. What it is in between, this process remembers, and anybody can tell from the
history: what is written says up to which reading it goes, and the anomalous ones since are in the ring. What is
remembered counts only while the stream's record is the one that this process saved with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from gatewatch.models.detectors.detector import ANOMALOUS
from gatewatch.models.detectors.incidents import OPEN_READINGS
from gatewatch.service.core.history import Entries, gathered
from gatewatch.service.core.loading import LoadedBatch
from gatewatch.service.core.readings import Model
from gatewatch.service.core.records import FENCE, KEPT, STATUS_BITS
from gatewatch.service.core.store import Store
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.incident import Incident, decode, gone_on
from gatewatch.service.incidents.rules import (
    GATES,
    LIMIT,
    LIMIT_IN_WINDOW,
    LIMIT_REASON,
    NO_RULES,
    Rules,
    counts,
    gate_of,
)

HIGHER_PEAK: Final = 1.25
"""A peak so many times the one that is shown is shown at once."""

MOST_RUNNING: Final = 50_000
"""Incidents that a process remembers, some 2 kB each; of more, the first ones are read again."""


class Tally(NamedTuple):
    """What an incident has come to with readings that changed no more of it.

    Attributes:
        n, last_ms, last_score: number, time and score of the last anomalous one; the time is never an earlier one.
        anomalous: how many were.
    """

    n: int
    last_ms: int
    last_score: float
    anomalous: int


class Running(NamedTuple):
    """The latest incident of a stream.

    Attributes:
        incident: as it stands, but for the tally; None where the stream has none.
        written: as Redis has it.
        pending: what may become one, as Redis has it; None where it was not read.
        since_s: since when no other process wrote the stream, by this one's clock; None where that is not known.
        written_s: when it was written, by the same clock.
        tally: of readings since; None where there were none.
    """

    incident: Incident | None
    written: Incident | None
    pending: bytes | None = None
    since_s: float | None = None
    written_s: float = 0.0
    tally: Tally | None = None

    def may_wait(self, now_s: float, write_s: float) -> bool:
        """Whether what nobody need see at once is written later.

        A stream that processes have in turn is written with each reading, so that none has to read its history.
        """
        return self.since_s is not None and now_s - self.since_s >= write_s > now_s - self.written_s

    def whole(self) -> Running:
        """The same with the tally in the incident."""
        incident, tally = self.incident, self.tally
        if tally is None or incident is None:
            return self
        incident = msgspec.structs.replace(
            incident,
            last_ms=tally.last_ms,
            last_score=tally.last_score,
            anomalous=tally.anomalous,
            judged=tally.n - incident.n + 1,
        )
        return self._replace(incident=incident, tally=None)

    def tallied(self, n: int, time_ms: int, score: float, status: int, rules: Rules | None) -> Running | None:
        """The same after one more reading, if that only has to be counted; None where it may change more.

        It raises no alert, no gate has decided about it, and the detector's incident is open before and after it. What
        follows is what `advance` and `Fold` say of such a reading, in a tenth of the time.

        Args:
            rules: of the stream; None where its incidents go by the detector.
        """
        incident = self.incident
        if incident is None or incident.end_ms is not None or incident.untold is not None:
            return None
        known = self.tally
        last_n, last_ms, _, anomalous = known or (incident.last_n, incident.last_ms, 0.0, incident.anomalous)
        counts, kept = status & STATUS_BITS == ANOMALOUS, bool(status & KEPT)
        if counts and (n <= last_n or score > incident.peak_score):
            return None
        if rules is not None and not kept:
            if rules.merge is not None and rules.merge.reached(n - last_n - counts, time_ms - last_ms):
                return None
            if rules.merge is None and not counts and (incident.reason == LIMIT_REASON or n - last_n >= OPEN_READINGS):
                return None
        if not counts:
            return self
        tally = Tally(n, max(time_ms, last_ms), score, anomalous + 1)
        return Running(incident, self.written, self.pending, self.since_s, self.written_s, tally)


class RunningIncidents:
    """What this process remembers of open incidents, within a bound on their number."""

    def __init__(self) -> None:
        self._known: dict[StreamKey, tuple[bytes, Running]] = {}

    @property
    def any(self) -> bool:
        """Whether anything is remembered."""
        return bool(self._known)

    def of(self, stream: StreamKey, packed: bytes | None) -> Running | None:
        """A stream's, if its record is the one that was saved with it."""
        found = self._known.get(stream)
        return found[1] if found is not None and found[0] == name_of(packed) else None

    def note(self, stream: StreamKey, record: bytes, running: Running) -> None:
        """This was saved with a record; what has ended is forgotten."""
        if running.incident is not None and running.incident.is_open:
            self._known[stream] = name_of(record), running
            if len(self._known) > MOST_RUNNING:
                del self._known[next(iter(self._known))]
        else:
            self._known.pop(stream, None)

    def forget(self, stream: StreamKey) -> None:
        """Others wrote it."""
        self._known.pop(stream, None)


def name_of(packed: bytes | None) -> bytes:
    """What tells a record from all others of its stream: somebody who closes an incident leaves the fence as it is."""
    return b"" if packed is None else packed[FENCE] + packed[-4:]


def shows(written: Incident, incident: Incident) -> bool:
    """Whether people would see at once how an incident differs from what is written."""
    if incident.peak_score > HIGHER_PEAK * written.peak_score or len(incident.alerts) != len(written.alerts):
        return True
    return _seen_at_once(written) != _seen_at_once(incident)


def _seen_at_once(one: Incident) -> tuple[object, ...]:
    return one.n, one.end_ms is None, one.reason, one.untold, one.gate, one.alerts[-1:], one.group, one.window


class Latest(NamedTuple):
    """The latest incident of a stream.

    Attributes:
        incident: as it stands after all of the stream's readings; None where the stream has none.
        written: as Redis has it, which may be behind.
    """

    incident: Incident | None
    written: Incident | None


async def latest_of(store: Store, model: Model, loaded: LoadedBatch, until: Mapping[int, int]) -> dict[int, Latest]:
    """The latest incidents of streams as they stand: what is written and, where that is behind, the history since.

    Whoever goes by the figures of an incident asks this, and not what is written.

    Args:
        until: row of a stream to the number of its next reading.
    """
    kept = await store.latest_incidents([loaded.streams[row] for row in until])
    written = dict(zip(until, map(decode, kept), strict=True))
    behind = [
        row
        for row, incident in written.items()
        if incident is not None and incident.is_open and 0 < incident.seen < until[row] - 1
    ]
    past = await histories(store, model, behind, loaded)
    found = {}
    for row, incident in written.items():
        exact = incident
        if incident is not None and row in past:
            layout = loaded.layouts[row]
            of_row, rules = gathered(past[row], layout), loaded.rules.get(row, NO_RULES)
            exact = _with(incident, of_row, until[row], layout.model, rules)
        found[row] = Latest(exact, incident)
    return found


async def histories(store: Store, model: Model, rows: Sequence[int], loaded: LoadedBatch) -> dict[int, Entries]:
    """The histories of streams before a batch, in their own channels."""
    if not rows:
        return {}
    rings = await store.load_histories([loaded.streams[row] for row in rows])
    found = {}
    for row, ring in zip(rows, rings, strict=True):
        kept = loaded.recovered.get(row)  # what is in Redis may have other channels, or be of an earlier version
        if kept is None:
            kept = model.stepper.read_history(ring, loaded.layouts[row], loaded.seeds[row])
        found[row] = kept
    return found


def _with(incident: Incident, kept: Entries, until: int, channels: tuple[str, ...], rules: Rules) -> Incident:
    """An open incident with the readings since it was written: none of them ended it, or told anybody of it.

    Args:
        kept: (K,) the stream's history, in these channels.
        until: the number of the next reading, which is left out.
    """
    for entry in kept[(kept["n"] > incident.seen) & (kept["n"] < until)]:
        gate = gate_of(entry)
        if counts(entry):
            limit = gate in (LIMIT, LIMIT_IN_WINDOW)
            incident = gone_on(incident, entry, channels, limit, rules.breach(entry, channels) if limit else None)
        elif int(entry["status"]) & STATUS_BITS == ANOMALOUS:
            incident = msgspec.structs.replace(incident, gate=GATES[gate], gated=incident.gated + 1)
    return incident
