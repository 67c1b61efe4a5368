"""Recorder: what the readings of a batch make of their streams' incidents, to be saved with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout
from gatewatch.service.core.records import ALERT
from gatewatch.service.core.store import IncidentWrite, Store
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.incident import Scored, advance, concerns, decode, encode


class ReadsHistory(Protocol):
    """What reads a stream's history: the core's stepper."""

    def read_history(self, ring: bytes, layout: Layout, seed: int) -> Entries:
        """A stream's last readings, oldest first, in the channels of the stream."""


class Recorder:
    """Makes incidents of entries. Streams that are in none cost nothing; those in one, a round trip for all of them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def writes(
        self,
        streams: Sequence[StreamKey],
        rows: Any,
        entries: Entries,
        was_open: Any,
        channels: Sequence[str],
        read: ReadsHistory,
        layouts: Sequence[Layout],
        seeds: Sequence[int],
    ) -> list[IncidentWrite]:
        """What is to be saved of incidents, with the rows of `streams`.

        Args:
            streams: (B,) of a batch.
            rows: (N,) whose reading each entry is.
            entries: (N,) the readings that are applied, each stream's in their order.
            was_open: (B,) whether an incident was open before them.
            channels: (C,) what the columns of the entries belong to.
            read: reads the histories of those streams whose incident begins, to find its onset.
            layouts, seeds: (B,) of the streams.
        """
        concerned = np.unique(rows[concerns(entries) | was_open[rows]]).tolist()
        if not concerned:
            return []
        kept = await self._store.latest_incidents([streams[row] for row in concerned])
        begins = set(rows[(entries["status"] & ALERT) != 0].tolist())
        begins = {row for row in begins if not was_open[row]}
        histories = await self._histories(sorted(begins), streams, read, layouts, seeds)
        writes: list[IncidentWrite] = []
        for row, before in zip(concerned, kept, strict=True):
            latest, known = decode(before), bool(was_open[row])
            of_row = entries[rows == row]
            changed = advance(latest, streams[row].name, of_row, channels, known, histories.get(row, ()))
            last = None if latest is None else (latest.n, before)
            for incident in changed:
                began = last is None or incident.n != last[0]
                was_ended = latest is not None and latest.n == incident.n and not latest.is_open
                ended = not incident.is_open and not was_ended
                content = encode(incident)
                past = last if began else None
                writes.append(IncidentWrite(row, incident.n, incident.start_ms, content, past, began, ended))
                last = (incident.n, content)
        return writes

    async def _histories(
        self,
        rows: Sequence[int],
        streams: Sequence[StreamKey],
        read: ReadsHistory,
        layouts: Sequence[Layout],
        seeds: Sequence[int],
    ) -> dict[int, list[Scored]]:
        if not rows:
            return {}
        rings = await self._store.load_histories([streams[row] for row in rows])
        found = {}
        for row, ring in zip(rows, rings, strict=True):
            kept = read.read_history(ring, layouts[row], seeds[row])
            columns = (kept["n"].tolist(), kept["timestamp_ms"].tolist(), kept["score"].tolist())
            found[row] = [Scored(*one) for one in zip(*columns, strict=True)]
        return found
