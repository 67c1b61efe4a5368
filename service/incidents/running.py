"""Running: open incidents as they stand after the last reading, while Redis has them as they were written last.

To write an incident with each of its readings costs more than to score them. So it is written when people would see a
difference, and otherwise once in a while. What it is in between, this process remembers, and anybody can tell from the
history: what is written says up to which reading it goes, and the anomalous ones since are in the ring. What is
remembered counts only while the stream's record is the one that this process saved with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from gatewatch.models.detectors.detector import ANOMALOUS
from gatewatch.service.core.history import Entries, gathered
from gatewatch.service.core.loading import LoadedBatch
from gatewatch.service.core.readings import Model
from gatewatch.service.core.records import STATUS_BITS, fence_of
from gatewatch.service.core.store import Store
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.incident import Incident, decode, gone_on
from gatewatch.service.incidents.rules import GATES, LIMIT, LIMIT_IN_WINDOW, NO_RULES, Rules, counts, gate_of

HIGHER_PEAK: Final = 1.25
"""A peak so many times the one that is shown is shown at once."""

MOST_RUNNING: Final = 50_000
"""Incidents that a process remembers, some 2 kB each; of more, the first ones are read again."""


class Running(NamedTuple):
    """The latest incident of a stream.

    Attributes:
        incident: as it stands; None where the stream has none.
        written: as Redis has it.
        pending: what may become one, as Redis has it; None where it was not read.
        since_s: since when no other process wrote the stream, by this one's clock; None where that is not known.
        written_s: when it was written, by the same clock.
        record: fence and checksum of the record that it was saved with.
    """

    incident: Incident | None
    written: Incident | None
    pending: bytes | None = None
    since_s: float | None = None
    written_s: float = 0.0
    record: bytes = b""

    def may_wait(self, now_s: float, write_s: float) -> bool:
        """Whether what nobody need see at once is written later.

        A stream that processes have in turn is written with each reading, so that none has to read its history.
        """
        return self.since_s is not None and now_s - self.since_s >= write_s > now_s - self.written_s


class RunningIncidents:
    """What this process remembers of open incidents, within a bound on their number."""

    def __init__(self) -> None:
        self._known: dict[StreamKey, Running] = {}

    def of(self, stream: StreamKey, packed: bytes | None) -> Running | None:
        """A stream's, if its record is the one that was saved with it."""
        found = self._known.get(stream)
        return found if found is not None and found.record == name_of(packed) else None

    def note(self, saved: Iterable[tuple[StreamKey, Running]]) -> None:
        """These were saved; those that have ended are forgotten."""
        for stream, running in saved:
            if running.incident is not None and running.incident.is_open:
                self._known[stream] = running
            else:
                self._known.pop(stream, None)
        while len(self._known) > MOST_RUNNING:
            del self._known[next(iter(self._known))]

    def forget(self, streams: Iterable[StreamKey]) -> None:
        """Others wrote them."""
        for stream in streams:
            self._known.pop(stream, None)


def name_of(packed: bytes | None) -> bytes:
    """What tells a record from all others of its stream: somebody who closes an incident leaves the fence as it is."""
    return b"" if packed is None else fence_of(packed) + packed[-4:]


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
