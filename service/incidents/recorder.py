"""Recorder: what the readings of a batch make of their streams' incidents, to be saved with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gatewatch.service.core import records as state
from gatewatch.service.core.applying import Applied
from gatewatch.service.core.bookkeeping import encode_alert
from gatewatch.service.core.corrections import Correction
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout
from gatewatch.service.core.loading import LoadedBatch
from gatewatch.service.core.readings import Model
from gatewatch.service.core.records import ALERT, HELD
from gatewatch.service.core.store import IncidentWrite, Store, Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.incident import Incident, Scored, advance, concerns, decode, encode
from gatewatch.service.incidents.ruled import Fold, decode_pending, encode_pending, fold, may_begin
from gatewatch.service.incidents.rules import Rules, limited


class Recorder:
    """Makes incidents of entries. Streams that are in none cost nothing; those in one, a round trip for all of them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def writes(self, model: Model, loaded: LoadedBatch, applied: Applied) -> list[IncidentWrite]:
        """What a batch makes of its streams' incidents, to be put into its Writes."""
        if not applied.rounds:
            return []
        ((round_, entries),) = applied.rounds
        rows, was_open = round_.rows, applied.was_open
        ruled = await self._ruled(model, loaded, applied) if applied.ruled else []
        concerned = concerns(entries) | was_open[rows]
        if loaded.causes:  # an incident that was open before a state was lost may not be open after it
            concerned |= np.isin(rows, list(loaded.causes))
        every = [row for row in np.unique(rows[concerned]).tolist() if row not in applied.ruled]
        if not every:
            return ruled
        row_of = {stream: row for row, stream in enumerate(applied.writes.streams)}
        kept = await self._store.latest_incidents([loaded.streams[row] for row in every])
        begins = {row for row in rows[(entries["status"] & ALERT) != 0].tolist() if not was_open[row]} & {*every}
        histories = await self._histories(model, sorted(begins), loaded)
        writes: list[IncidentWrite] = []
        for row, latest in zip(every, kept, strict=True):
            stream, of_row = loaded.streams[row], entries[rows == row]
            changed = advance(
                decode(latest), stream.name, of_row, loaded.layouts[row].model, bool(was_open[row]),
                histories.get(row, ()),
            )  # fmt: skip
            writes += _changes(row_of[stream], latest, changed)
        return ruled + writes

    async def _ruled(self, model: Model, loaded: LoadedBatch, applied: Applied) -> list[IncidentWrite]:
        """What a batch makes of the incidents of streams that go by rules.

        What is told of them, and what is open, goes into the batch's Writes.
        """
        writes = applied.writes
        writes.opened -= (streams := {loaded.streams[row] for row in applied.ruled})
        writes.closed -= streams
        ((round_, entries),) = applied.rounds
        rows = round_.rows
        looked_at = {row for row in applied.ruled if row in applied.held or applied.was_open[row]} | {*loaded.causes}
        concerned = concerns(entries) | limited(entries) | np.isin(rows, list(looked_at))
        every = [row for row in np.unique(rows[concerned]).tolist() if row in applied.ruled]
        if not every:
            return []
        names = [loaded.streams[row] for row in every]
        kept, pendings = await self._store.latest_incidents(names), await self._store.pending_incidents(names)
        begins = [
            row
            for row, latest, pending in zip(every, kept, pendings, strict=True)
            if may_begin(applied.ruled[row], decode(latest), decode_pending(pending), entries[rows == row])
        ]
        histories = await self._histories(model, begins, loaded)
        row_of = {stream: row for row, stream in enumerate(writes.streams)}
        found: list[IncidentWrite] = []
        for row, stream, latest, pending in zip(every, names, kept, pendings, strict=True):
            before, at, layout = decode(latest), row_of[stream], loaded.layouts[row]
            made = fold(
                applied.ruled[row], stream.name, layout.model, before, decode_pending(pending),
                bool(applied.was_open[row]), entries[rows == row], histories.get(row, ()),
            )  # fmt: skip
            found += _changes(at, latest, list(made.changed.values()))
            _put(writes, at, stream, made, pending)
            if made.is_held:
                loaded.records["status"][row] |= HELD
                (writes.records[at],) = state.pack(loaded.records[row : row + 1], [layout], [loaded.seeds[row]])
        return found

    async def corrected(self, begun: Sequence[tuple[int, StreamKey, Layout, Entries]]) -> list[IncidentWrite]:
        """What corrections make of incidents: those that begin with a reading that was scored anew.

        Args:
            begun: of such a stream its row in Writes, its key, its layout, and its entries from that reading on.
        """
        if not begun:
            return []
        kept = await self._store.latest_incidents([stream for _, stream, _, _ in begun])
        writes: list[IncidentWrite] = []
        for (row, stream, layout, entries), latest in zip(begun, kept, strict=True):
            changed = advance(decode(latest), stream.name, entries, layout.model, was_open=False)
            writes += _changes(row, latest, changed)
        return writes

    async def corrected_ruled(
        self, corrections: Sequence[tuple[int, StreamKey, Layout, Rules, Correction]], writes: Writes
    ) -> list[IncidentWrite]:
        """What corrections make of incidents of streams that go by rules: those that begin with what counts only now.

        Args:
            corrections: of each stream its row in Writes, its key, its layout, its rules, and its correction.
            writes: gets what is to be told of them.
        """
        if not corrections:
            return []
        names = [stream for _, stream, _, _, _ in corrections]
        kept, pendings = await self._store.latest_incidents(names), await self._store.pending_incidents(names)
        found: list[IncidentWrite] = []
        for (row, stream, layout, rules, correction), latest, content in zip(corrections, kept, pendings, strict=True):
            entries, pending = correction.entries, decode_pending(content)
            if pending is not None and pending.first_n >= int(entries["n"][0]):
                pending = None  # all of it is replayed
            elif pending is not None:
                entries = entries[entries["n"] > pending.last_n]
            made = fold(rules, stream.name, layout.model, decode(latest), pending, False, entries)
            found += _changes(row, latest, list(made.changed.values()))
            _put(writes, row, stream, made, content, corrected=True)
        return found

    async def _histories(self, model: Model, rows: Sequence[int], loaded: LoadedBatch) -> dict[int, list[Scored]]:
        """The last readings of streams whose incidents begin: their onsets are sought there."""
        if not rows:
            return {}
        rings = await self._store.load_histories([loaded.streams[row] for row in rows])
        found = {}
        for row, ring in zip(rows, rings, strict=True):
            kept = loaded.recovered.get(row)  # what is in Redis may have other channels, or be of an earlier version
            if kept is None:
                kept = model.stepper.read_history(ring, loaded.layouts[row], loaded.seeds[row])
            columns = (kept["n"].tolist(), kept["timestamp_ms"].tolist(), kept["score"].tolist())
            found[row] = [Scored(*one) for one in zip(*columns, strict=True)]
        return found


def _put(writes: Writes, row: int, stream: StreamKey, made: Fold, pending: bytes, corrected: bool = False) -> None:
    """Put into Writes what is to be told of a stream's incidents and whether one is open, and what is pending."""
    writes.alerts += [(row, encode_alert(stream, n, alert, corrected)) for n, alert in made.alerts]
    (writes.opened if made.is_told else writes.closed).add(stream)
    if (after := encode_pending(made.pending)) != pending:
        writes.pending.append((row, after))


def _changes(row: int, latest: bytes, changed: Sequence[Incident]) -> list[IncidentWrite]:
    """What is to be saved of incidents of one stream that changed; `latest` is its latest one, as it is kept."""
    before = decode(latest)
    last = None if before is None else (before.n, latest)
    was_ended = before is not None and not before.is_open
    writes = []
    for incident in changed:
        began = last is None or incident.n != last[0]
        ended = not incident.is_open and (began or not was_ended)
        content = encode(incident)
        writes.append(IncidentWrite(row, incident.n, incident.start_ms, content, last if began else None, began, ended))
        last = (incident.n, content)
    return writes
