"""Repeats: readings that are not new, answered from their streams' histories."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from gatewatch.service.core import corrections, history
from gatewatch.service.core.bookkeeping import Bookkeeping
from gatewatch.service.core.corrector import Corrector
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout
from gatewatch.service.core.loading import LoadedBatch
from gatewatch.service.core.outcomes import Answer, encode_kept
from gatewatch.service.core.readings import Batch
from gatewatch.service.core.sequencing import counts_anew, fills_a_hole, unanswered
from gatewatch.service.core.sessions import Sessions
from gatewatch.service.core.store import Store

HISTORIES_BYTES: Final = 16 * 2**20
"""Of histories loaded at a time, to look for what is sent again; but at least one."""

FEW_BYTES: Final = 2**20
"""Of histories; so few are searched on the event loop, in a millisecond or two."""


class Repeats:
    """Answers what was applied before, is late, or stands in conflict."""

    def __init__(self, store: Store, books: Bookkeeping, corrector: Corrector, sessions: Sessions) -> None:
        self._store = store
        self._books = books
        self._corrector = corrector
        self._sessions = sessions

    async def answer(
        self, answers: list[Answer], batch: Batch, seen: Sequence[tuple[int, int]], loaded: LoadedBatch
    ) -> set[int]:
        """Answer readings that are not new: with their first answer, if the history still has it.

        Args:
            answers: of the batch; written in place.
            seen: place and row of each.

        Returns:
            The places of those that are new after all: their sender counts anew.
        """
        repeats: dict[Layout, list[tuple[int, Entries]]] = {}
        restarted: dict[int, set[int]] = {}
        for (place, row), known in zip(seen, await self._known(batch, seen, loaded), strict=True):
            layout, record, time_ms = loaded.layouts[row], loaded.records[row], int(batch.timestamps_ms[place])
            if row in restarted or (
                counts_anew(batch, place, known, layout, record)
                and await self._begins_anew(batch, loaded, row, int(batch.seqs[place]), time_ms)
            ):
                restarted.setdefault(row, set()).add(place)
                continue
            refused = unanswered(batch, place, known, layout, record)
            if refused is None:
                repeats.setdefault(layout, []).append((place, known))
            elif refused.status == "late" and corrections.within_window(record, time_ms) and row not in loaded.before:
                answers[place] = self._corrector.take(batch, place, record)
            else:
                answers[place] = refused
                self._books.refused(refused)
        for layout, repeated in repeats.items():
            places = [place for place, _ in repeated]
            streams, encoders = [batch.streams[at] for at in places], [batch.encoders[at] for at in places]
            kept = np.concatenate([known for _, known in repeated])
            texts = encode_kept(encoders, streams, kept, layout)
            for place, text in zip(places, texts, strict=True):
                answers[place] = text
            await self._books.replayed(streams, kept)
        return set().union(*restarted.values())

    async def apart(
        self, batch: Batch, seen: Sequence[tuple[int, int]], into: Mapping[int, int], loaded: LoadedBatch
    ) -> list[tuple[int, int]]:
        """Place and row of readings that are joined now, and were applied one by one: each has an answer of its own.

        So it was where one of them brought a channel that the stream had not sent before.

        Args:
            batch: as it was sent.
            seen: place and row of each reading that is not new.
            into: place of one that was joined to the place of the one that stands for it.
        """
        rows = dict(seen)
        parts = [(place, rows[first]) for place, first in into.items() if first in rows]
        parts += [(first, rows[first]) for first in {into[place] for place, _ in parts}]
        fails = set()
        for (place, row), known in zip(parts, await self._known(batch, parts, loaded), strict=True):
            if unanswered(batch, place, known, loaded.layouts[row], loaded.records[row]) is not None:
                fails.add(into.get(place, place))
        return [(place, row) for place, row in parts if into.get(place, place) not in fails]

    async def _begins_anew(self, batch: Batch, loaded: LoadedBatch, row: int, seq: int, time_ms: int) -> bool:
        """Begin a session of a stream with a reading, unless that was only overtaken by those around it."""
        stream, record = loaded.streams[row], loaded.records[row]
        (ring,) = await self._store.load_histories([stream])
        layout = loaded.before.get(row, loaded.layouts[row])
        kept = batch.model.stepper.read_history(ring, layout, loaded.seeds[row])
        if fills_a_hole(seq, kept, record):
            return False
        return await self._sessions.restart(batch.model, stream, time_ms, int(record["session"]))

    async def _known(self, batch: Batch, seen: Sequence[tuple[int, int]], loaded: LoadedBatch) -> list[Entries]:
        """Of each place and row, (0 or 1,) the entry of the stream's history with the reading's identity."""
        stepper = batch.model.stepper
        places: dict[int, list[int]] = {}
        for place, row in seen:
            places.setdefault(row, []).append(place)
        found: dict[int, Entries] = {}

        def find(rows: Sequence[int], rings: Sequence[bytes]) -> None:
            for row, ring in zip(rows, rings, strict=True):
                of_row = places[row]
                seqs, times_ms = batch.seqs[of_row].tolist(), batch.timestamps_ms[of_row].tolist()
                values, layout = batch.values[of_row], loaded.layouts[row]
                if before := loaded.before.get(row):  # the history has not yet the channels that these bring
                    known = history.find_each(
                        ring, before, loaded.seeds[row], seqs, times_ms, values[:, : len(before.channels)]
                    )
                    known = [history.rearranged(entry, before, layout) for entry in known]
                else:
                    known = history.find_each(ring, layout, loaded.seeds[row], seqs, times_ms, values)
                found.update(zip(of_row, known, strict=True))

        together = max(1, HISTORIES_BYTES // (stepper.slots * stepper.entry.itemsize))
        every = list(places)
        for start in range(0, len(every), together):
            rows = every[start : start + together]
            rings = await self._store.load_histories([loaded.streams[row] for row in rows])
            if sum(map(len, rings)) < FEW_BYTES:
                find(rows, rings)
            else:
                await asyncio.to_thread(find, rows, rings)
        return [found[place] for place, _ in seen]
