"""Recorder: what the readings of a batch make of their streams' incidents, to be saved with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gatewatch.service.core.applying import Applied
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout
from gatewatch.service.core.loading import LoadedBatch
from gatewatch.service.core.readings import Model
from gatewatch.service.core.records import ALERT
from gatewatch.service.core.store import IncidentWrite, Store
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.incident import Scored, advance, concerns, decode, encode


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
        concerned = concerns(entries) | was_open[rows]
        if loaded.causes:  # an incident that was open before a state was lost may not be open after it
            concerned |= np.isin(rows, list(loaded.causes))
        every = np.unique(rows[concerned]).tolist()
        if not every:
            return []
        row_of = {stream: row for row, stream in enumerate(applied.writes.streams)}
        kept = await self._store.latest_incidents([loaded.streams[row] for row in every])
        begins = {row for row in rows[(entries["status"] & ALERT) != 0].tolist() if not was_open[row]}
        histories = await self._histories(model, sorted(begins), loaded)
        writes: list[IncidentWrite] = []
        for row, latest in zip(every, kept, strict=True):
            stream, of_row = loaded.streams[row], entries[rows == row]
            writes += _changes(
                row_of[stream], latest, stream, of_row, loaded.layouts[row].model, bool(was_open[row]),
                histories.get(row, ()),
            )  # fmt: skip
        return writes

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
            writes += _changes(row, latest, stream, entries, layout.model, was_open=False)
        return writes

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


def _changes(
    row: int,
    latest: bytes,
    stream: StreamKey,
    entries: Entries,
    channels: Sequence[str],
    was_open: bool,
    history: Sequence[Scored] = (),
) -> list[IncidentWrite]:
    """What is to be saved of the incidents of one stream; `latest` is its latest one, as it is kept."""
    before = decode(latest)
    last = None if before is None else (before.n, latest)
    was_ended = before is not None and not before.is_open
    writes = []
    for incident in advance(before, stream.name, entries, channels, was_open, history):
        began = last is None or incident.n != last[0]
        ended = not incident.is_open and (began or not was_ended)
        content = encode(incident)
        writes.append(IncidentWrite(row, incident.n, incident.start_ms, content, last if began else None, began, ended))
        last = (incident.n, content)
    return writes
