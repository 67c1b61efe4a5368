"""CorrectedIncidents: what late readings that took their places make of their streams' incidents."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from gatewatch.models.detectors.asked import Words
from gatewatch.service.core.corrections import Correction
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout
from gatewatch.service.core.loading import LoadedBatch
from gatewatch.service.core.readings import Model
from gatewatch.service.core.records import KEPT, Records
from gatewatch.service.core.store import IncidentWrite, Store, Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.incident import advance
from gatewatch.service.incidents.ruled import decode_pending, fold
from gatewatch.service.incidents.rules import Rules
from gatewatch.service.incidents.running import Running, latest_of
from gatewatch.service.incidents.writing import Changed, IncidentWriter, began_from, let_go, put


class Begun(NamedTuple):
    """A stream whose incident begins with a reading that was scored anew.

    Attributes:
        row: in Writes,
        loaded: and among the streams that were loaded.
        seed: where the checksum of its record starts.
        asked: of the stream's scoring.
        start: (1,) the earlier record from which it was scored anew.
        entries: its readings from that one on.
    """

    row: int
    loaded: int
    stream: StreamKey
    layout: Layout
    seed: int
    asked: Words
    start: Records
    entries: Entries


class Corrected(NamedTuple):
    """A stream whose incidents go by rules, with readings that count only since it was corrected.

    Attributes:
        row: in Writes,
        loaded: and among the streams that were loaded.
        seed: where the checksum of its record starts.
        asked: of the stream's scoring.
    """

    row: int
    loaded: int
    stream: StreamKey
    layout: Layout
    seed: int
    asked: Words
    rules: Rules
    correction: Correction


class CorrectedIncidents:
    """Begins incidents with readings that were scored anew, and moves on those that go by rules."""

    def __init__(self, store: Store, writer: IncidentWriter) -> None:
        self._store = store
        self._writer = writer

    async def begun(self, model: Model, loaded: LoadedBatch, begun: Sequence[Begun]) -> list[IncidentWrite]:
        """What corrections make of incidents: those that begin with a reading that was scored anew."""
        if not begun:
            return []
        latest = await latest_of(self._store, model, loaded, _until(loaded, begun))
        changed = []
        for one in begun:
            before = partial(began_from, model, one.start, one.layout, one.seed, one.asked)
            running = Running(*latest[one.loaded])
            incidents = advance(running.incident, one.stream.name, one.entries, one.layout.model, was_open=False)
            changed.append(Changed(one.row, one.stream, running, incidents, before))
        return await self._writer.writes_of(changed)

    async def ruled(
        self, model: Model, loaded: LoadedBatch, corrected: Sequence[Corrected], writes: Writes
    ) -> list[IncidentWrite]:
        """What corrections make of incidents of streams that go by rules: those that begin with what counts only now.

        Args:
            writes: gets what is to be told of them, and the records of streams of which nothing is kept after all.
        """
        if not corrected:
            return []
        latest = await latest_of(self._store, model, loaded, _until(loaded, corrected))
        pendings = await self._store.pending_incidents([one.stream for one in corrected])
        changed = []
        for one, content in zip(corrected, pendings, strict=True):
            entries, pending = one.correction.since_closed(), decode_pending(content)
            if pending is not None and pending.first_n >= int(entries["n"][0]):
                pending = None  # all of it is replayed
            elif pending is not None:
                entries = entries[entries["n"] > pending.last_n]
            running = Running(*latest[one.loaded])
            made = fold(one.rules, one.stream.name, one.layout.model, running.incident, pending, False, entries)
            before = partial(began_from, model, one.correction.start, one.layout, one.seed, one.asked)
            changed.append(Changed(one.row, one.stream, running, list(made.changed.values()), before))
            put(writes, one.row, one.stream, made, content, corrected=True)
            last = one.correction.entries[-1:]
            if one.correction.record["status"][0] & KEPT and not made.goes_on(int(last["n"][0])):
                let_go(model, one.correction.record, last, writes, one.row, one.layout, one.seed)
        return await self._writer.writes_of(changed)


def _until(loaded: LoadedBatch, corrected: Sequence[Begun] | Sequence[Corrected]) -> dict[int, int]:
    """Row of each stream that was loaded to the number of its next reading, as it was before the correction."""
    return {one.loaded: int(loaded.records["readings"][one.loaded]) for one in corrected}
