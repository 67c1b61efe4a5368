"""CorrectedIncidents: what late readings that took their places make of their streams' incidents."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from gatewatch.models.detectors.asked import Words
from gatewatch.service.core.corrections import Correction
from gatewatch.service.core.layout import Layout
from gatewatch.service.core.loading import LoadedBatch
from gatewatch.service.core.readings import Model
from gatewatch.service.core.records import ENDED, KEPT, OPEN
from gatewatch.service.core.store import IncidentWrite, Store, Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.incident import Incident, RaisedAlert, advance, raised_by
from gatewatch.service.incidents.ruled import decode_pending, fold
from gatewatch.service.incidents.rules import NO_RULES, Rules
from gatewatch.service.incidents.running import Running, latest_of
from gatewatch.service.incidents.writing import Changed, IncidentWriter, began_from, let_go, put, put_alerts


class Corrected(NamedTuple):
    """A stream that was corrected, with readings that may begin an incident only since.

    Attributes:
        row: in Writes,
        loaded: and among the streams that were loaded.
        seed: where the checksum of its record starts.
        asked: of the stream's scoring.
        rules: that its incidents go by; None where they go by the detector.
    """

    row: int
    loaded: int
    stream: StreamKey
    layout: Layout
    seed: int
    asked: Words
    rules: Rules | None
    correction: Correction


class CorrectedIncidents:
    """Begins incidents with readings that were scored anew, and moves on those that go by rules."""

    def __init__(self, store: Store, writer: IncidentWriter) -> None:
        self._store = store
        self._writer = writer

    async def writes(
        self, model: Model, loaded: LoadedBatch, corrected: Sequence[Corrected], writes: Writes
    ) -> list[IncidentWrite]:
        """What corrections make of incidents.

        Args:
            writes: gets what is to be told of them, and the records of streams of which nothing is kept after all.
        """
        if not corrected:
            return []
        until = {one.loaded: int(loaded.records["readings"][one.loaded]) for one in corrected}
        latest = await latest_of(self._store, model, loaded, until)
        ruled = [one for one in corrected if one.rules is not None]
        pendings = await self._store.pending_incidents([one.stream for one in ruled]) if ruled else []
        changed = [
            _ruled(model, one, Running(*latest[one.loaded]), pending, writes)
            for one, pending in zip(ruled, pendings, strict=True)
        ]
        unruled = [(one, _begun(model, one.correction)) for one in corrected if one.rules is None]
        free = await self._free([(one.stream, latest[one.loaded].incident, begun) for one, begun in unruled])
        for one, begun in unruled:
            before = [n for n in begun.first if (one.stream, n) in free]
            changed += _of_detector(model, one, Running(*latest[one.loaded]), begun, before, writes)
        return await self._writer.writes_of(changed)

    async def _free(self, begun: Sequence[tuple[StreamKey, Incident | None, _Begun]]) -> set[tuple[StreamKey, int]]:
        """Of numbers that lie before a stream's latest incident those that no other one has: a late reading moves on
        what comes after it, and not the numbers that incidents were given."""
        before = [(stream, n) for stream, latest, own in begun if latest is not None for n in own.first if n < latest.n]
        kept = await self._store.incidents_of(before) if before else []
        return {place for place, content in zip(before, kept, strict=True) if not content}


class _Begun(NamedTuple):
    """Numbers of the readings of a stream that alert only since it was corrected.

    Attributes:
        first: those with which an incident begins.
        within: those of channels that join one that goes on.
    """

    first: list[int]
    within: list[int]


def _begun(model: Model, correction: Correction) -> _Begun:
    entries, begun = correction.entries, correction.begun()["n"]
    goes_on = (entries["status"] & OPEN != 0) & (entries["status"] & ENDED == 0)
    was_open = np.concatenate([model.detector.is_open(correction.start["detector"]), goes_on[:-1]])
    within = was_open[np.searchsorted(entries["n"], begun)]
    return _Begun(begun[~within].tolist(), begun[within].tolist())


def _of_detector(
    model: Model, one: Corrected, running: Running, begun: _Begun, before: Sequence[int], writes: Writes
) -> list[Changed]:
    """The incidents that begin on a stream, or go on, as the detector says.

    Args:
        before: numbers of those that lie before the latest one.
        writes: gets the alerts.
    """
    entries, channels, name = one.correction.entries, one.layout.model, one.stream.name
    proved_from = partial(began_from, model, one.correction.start, one.layout, one.seed, one.asked)
    alerts: list[tuple[int, RaisedAlert]] = []
    changed: list[Changed] = []
    latest = running.incident
    behind = -1 if latest is None else latest.n
    if before:
        part = entries[(entries["n"] >= before[0]) & (entries["n"] < behind)]
        made = advance(None, name, part, channels, was_open=False)
        past = [replace(found, end_ms=found.last_ms) for found in made.incidents if found.n in before]
        alerts += [(incident.n, incident.alerts[0]) for incident in past]
        changed.append(Changed(one.row, one.stream, Running(None, None), past, proved_from, past=True))
    first = [n for n in begun.first if n > behind]
    incidents: list[Incident] = []
    if latest is not None and latest.is_open:
        for entry in entries[np.isin(entries["n"], [n for n in begun.within if n > behind])]:
            raised = raised_by(latest, entry, channels)
            alerts.append((int(entry["n"]), raised))
            incidents = [latest := latest.with_alert(raised)]
    if first:
        made = advance(latest, name, entries[entries["n"] >= first[0]], channels, was_open=False)
        incidents = made.incidents
        alerts += [alert for alert in made.alerts if alert[0] in (*begun.first, *begun.within)]
    changed.append(Changed(one.row, one.stream, running, incidents, proved_from))
    put_alerts(writes, one.row, one.stream, alerts, corrected=True)
    return changed


def _ruled(model: Model, one: Corrected, running: Running, content: bytes, writes: Writes) -> Changed:
    """The incidents that begin on a stream by its rules: with what counts only now.

    Args:
        content: what may become one, as it is kept.
        writes: as of CorrectedIncidents.writes.
    """
    entries, pending = one.correction.since_closed(), decode_pending(content)
    if pending is not None and pending.first_n >= int(entries["n"][0]):
        pending = None  # all of it is replayed
    elif pending is not None:
        entries = entries[entries["n"] > pending.last_n]
    made = fold(one.rules or NO_RULES, one.stream.name, one.layout.model, running.incident, pending, False, entries)
    put(writes, one.row, one.stream, made, content, corrected=True)
    record, last = one.correction.record, one.correction.entries[-1:]
    if record["status"][0] & KEPT and not made.goes_on(int(last["n"][0])):
        let_go(model, record, last, writes, one.row, one.layout, one.seed)
    proved_from = partial(began_from, model, one.correction.start, one.layout, one.seed, one.asked)
    return Changed(one.row, one.stream, running, list(made.changed.values()), proved_from)
