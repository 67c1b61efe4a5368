"""Recorder: what the readings of a batch make of their streams' incidents, to be saved with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from gatewatch.service.core import records as state
from gatewatch.service.core.applying import Applied
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout
from gatewatch.service.core.loading import LoadedBatch
from gatewatch.service.core.readings import Model
from gatewatch.service.core.records import ALERT, Records
from gatewatch.service.core.store import IncidentWrite, Store
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.began import began
from gatewatch.service.incidents.incident import Scored, advance, concerns, decode, encode


class Begun(NamedTuple):
    """A stream whose incident begins with a reading that was scored anew.

    Attributes:
        row: in Writes.
        seed: where the checksum of its record starts.
        sensitivity: a factor on the stream's scores.
        start: (1,) the earlier record from which it was scored anew.
        entries: its readings from that one on.
    """

    row: int
    stream: StreamKey
    layout: Layout
    seed: int
    sensitivity: float
    start: Records
    entries: Entries


class Recorder:
    """Makes incidents of entries. Streams that are in none cost nothing; those in one, a round trip for all of them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def writes(
        self, model: Model, loaded: LoadedBatch, applied: Applied, packed: Sequence[bytes | None]
    ) -> list[IncidentWrite]:
        """What a batch makes of its streams' incidents, to be put into its Writes.

        Args:
            packed: the records before the batch, as the store held them.
        """
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
            before = partial(_before, model, loaded, row, packed[row])
            writes += _changes(
                row_of[stream], latest, stream, of_row, loaded.layouts[row].model, before, bool(was_open[row]),
                histories.get(row, ()),
            )  # fmt: skip
        return writes

    async def corrected(self, model: Model, begun: Sequence[Begun]) -> list[IncidentWrite]:
        """What corrections make of incidents: those that begin with a reading that was scored anew."""
        if not begun:
            return []
        kept = await self._store.latest_incidents([one.stream for one in begun])
        writes: list[IncidentWrite] = []
        for one, latest in zip(begun, kept, strict=True):
            before = partial(_packed, model, one.start, one.layout, one.seed, one.sensitivity)
            writes += _changes(one.row, latest, one.stream, one.entries, one.layout.model, before, was_open=False)
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
    before_it: Callable[[], bytes],
    was_open: bool,
    history: Sequence[Scored] = (),
) -> list[IncidentWrite]:
    """What is to be saved of the incidents of one stream.

    Args:
        latest: its latest one, as it is kept.
        before_it: makes what one that begins is proved from.
    """
    before = decode(latest)
    last = None if before is None else (before.n, latest)
    was_ended = before is not None and not before.is_open
    writes = []
    for incident in advance(before, stream.name, entries, channels, was_open, history):
        is_new = last is None or incident.n != last[0]
        ended = not incident.is_open and (is_new or not was_ended)
        content = encode(incident)
        begun_from = before_it() if is_new else b""
        past = last if is_new else None
        writes.append(IncidentWrite(row, incident.n, incident.start_ms, content, past, is_new, ended, begun_from))
        last = (incident.n, content)
    return writes


def _before(model: Model, loaded: LoadedBatch, row: int, packed: bytes | None) -> bytes:
    """What an incident of a stream is proved from: its record before the batch."""
    factor = 1.0 if loaded.sensitivity is None else float(loaded.sensitivity[row])
    if (recovered := loaded.begun.get(row)) is not None:
        return _packed(model, recovered, loaded.layouts[row], loaded.seeds[row], factor)
    return began(packed or b"", factor, model.detector)


def _packed(model: Model, record: Records, layout: Layout, seed: int, sensitivity: float) -> bytes:
    return began(state.pack(record, [layout], [seed])[0], sensitivity, model.detector)
