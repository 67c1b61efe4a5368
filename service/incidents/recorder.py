"""Recorder: what the readings of a batch make of their streams' incidents, to be saved with them."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import partial

import numpy as np

from gatewatch.models.detectors.asked import words
from gatewatch.service.aside import in_slices
from gatewatch.service.clock import Clock
from gatewatch.service.core import records as state
from gatewatch.service.core.applying import Applied
from gatewatch.service.core.history import Entries, newest_first
from gatewatch.service.core.loading import LoadedBatch
from gatewatch.service.core.readings import Model
from gatewatch.service.core.records import ALERT, GATE_BITS, HELD, KEPT, OPEN
from gatewatch.service.core.sequencing import Places
from gatewatch.service.core.store import IncidentWrite, Store
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.began import began
from gatewatch.service.incidents.incident import Scored, advance, begins_another, concerns, sought
from gatewatch.service.incidents.ruled import decode_pending, encode_pending, fold, may_begin
from gatewatch.service.incidents.rules import Rules, limited
from gatewatch.service.incidents.running import Running, RunningIncidents, latest_of
from gatewatch.service.incidents.writing import Changed, IncidentWriter, began_from, let_go, put, put_alerts


class Recorder:
    """Makes incidents of entries. Streams that are in none cost nothing; those in one, a round trip for all of them."""

    def __init__(
        self,
        store: Store,
        writer: IncidentWriter,
        clock: Clock,
        write_s: float = 0.0,
    ) -> None:
        """`write_s`: how often open incidents are written where nothing else has them written, seconds."""
        self._store = store
        self._writer = writer
        self._clock = clock
        self._write_s = write_s
        self._remembered = RunningIncidents()

    async def writes(
        self, model: Model, loaded: LoadedBatch, applied: Applied, packed: Sequence[bytes | None]
    ) -> list[IncidentWrite]:
        """What a batch makes of its streams' incidents, to be put into its Writes, which get the alerts.

        Args:
            packed: the records before the batch, as the store held them.
        """
        if not applied.rounds:
            return []
        ((round_, entries),) = applied.rounds
        rows, was_open = round_.rows, applied.was_open
        concerned = concerns(entries) | was_open[rows]
        looked_at = applied.was_silent or applied.ruled or loaded.causes
        if not (looked_at or np.count_nonzero(concerned)):  # as mostly
            return []
        row_of = {stream: row for row, stream in enumerate(applied.writes.streams)}
        silences = await self._writer.back(
            [
                (row_of[loaded.streams[row]], loaded.streams[row], before, int(entries["timestamp_ms"][rows == row][0]))
                for row, before in applied.was_silent.items()
                if (rows == row).any()
            ]
        )
        tallied, due = self._tallied(model, loaded, applied, packed, row_of)
        ruled = await self._ruled(model, loaded, applied, packed, tallied) if applied.ruled else []
        applied.writes.opened |= {one.stream for one in due}
        if loaded.causes:  # an incident that was open before a state was lost may not be open after it
            concerned |= np.isin(rows, list(loaded.causes))
        concerned[tallied] = False
        every = [row for row in np.unique(rows[concerned]).tolist() if row not in applied.ruled]
        if not every:
            return silences + ruled + await self._writer.writes_of(due, applied)
        own = _of_rows(rows, entries)
        known = await self._known(model, loaded, packed, every, own)
        begins = [
            row for row, running in zip(every, known, strict=True)
            if begins_another(running.incident, own[row], bool(was_open[row]))
        ]  # fmt: skip
        histories = await self._histories(begins, loaded)
        changed, now_s = due, self._clock.monotonic()
        async for row, running in in_slices(zip(every, known, strict=True)):
            stream, of_row = loaded.streams[row], own[row]
            before = partial(_before, model, loaded, row, packed[row])
            made = advance(
                running.incident, stream.name, of_row, loaded.layouts[row].model, bool(was_open[row]),
                histories.get(row, ()), model.stepper.slots,
            )  # fmt: skip
            seen = int(of_row["n"][-1])
            waits = not loaded.records["reorder_ms"][row] and self._waits(model, running, seen, now_s)
            changed.append(Changed(row_of[stream], stream, running, made.incidents, before, seen, waits))
            put_alerts(applied.writes, row_of[stream], stream, made.alerts)
        return silences + ruled + await self._writer.writes_of(changed, applied)

    def _tallied(
        self,
        model: Model,
        loaded: LoadedBatch,
        applied: Applied,
        packed: Sequence[bytes | None],
        row_of: Mapping[StreamKey, int],
    ) -> tuple[list[int], list[Changed]]:
        """Count readings that change no more of open incidents than what is counted; most of theirs are such.

        What waits to be written stays in the list of what is open as it stands there.

        Returns:
            The places of their entries, and the incidents that are due to be written.
        """
        found: list[int] = []
        due: list[Changed] = []
        if not self._remembered.any:
            return found, due
        ((round_, entries),) = applied.rounds
        rows, status = round_.rows, entries["status"]
        likely = (status & (ALERT | OPEN) == OPEN) & (entries["reason"] & GATE_BITS == 0) & applied.was_open[rows]
        likely &= (loaded.records["reorder_ms"][rows] == 0) & (np.bincount(rows)[rows] == 1)
        places, now_s = np.flatnonzero(likely), self._clock.monotonic()
        columns = [entries[name][places].tolist() for name in ("n", "timestamp_ms", "score", "status")]
        for at, row, n, time_ms, score, bits in zip(places.tolist(), rows[places].tolist(), *columns, strict=True):
            stream = loaded.streams[row]
            running = self._remembered.of(stream, packed[row])
            if running is None or row in loaded.causes:
                continue
            after = running.tallied(n, time_ms, score, bits, applied.ruled.get(row))
            if after is None:
                continue
            found.append(at)
            if self._waits(model, running, n, now_s):
                applied.running[stream] = after
                applied.writes.opened.discard(stream)
            elif (whole := after.whole()).incident is not None:
                due.append(Changed(row_of[stream], stream, whole, [whole.incident], _nothing, n))
        return found, due

    async def _ruled(
        self,
        model: Model,
        loaded: LoadedBatch,
        applied: Applied,
        packed: Sequence[bytes | None],
        tallied: Sequence[int],
    ) -> list[IncidentWrite]:
        """What a batch makes of the incidents of streams that go by rules.

        What is told of them, and what is open, goes into the batch's Writes.

        Args:
            tallied: places of entries that are counted already.
        """
        writes = applied.writes
        writes.opened -= (streams := {loaded.streams[row] for row in applied.ruled})
        writes.closed -= streams
        ((round_, entries),) = applied.rounds
        rows = round_.rows
        looked_at = {row for row in applied.ruled if row in applied.held or applied.was_open[row]} | {*loaded.causes}
        concerned = concerns(entries) | limited(entries) | np.isin(rows, list(looked_at))
        concerned[tallied] = False
        every = [row for row in np.unique(rows[concerned]).tolist() if row in applied.ruled]
        if not every:
            return []
        own = _of_rows(rows, entries)
        known = await self._known(model, loaded, packed, every, own, applied.ruled)
        begins = [
            row
            for row, running in zip(every, known, strict=True)
            if may_begin(applied.ruled[row], running.incident, decode_pending(running.pending or b""), own[row])
        ]
        histories = await self._histories(begins, loaded)
        row_of = {stream: row for row, stream in enumerate(writes.streams)}
        changed, now_s = [], self._clock.monotonic()
        async for row, running in in_slices(zip(every, known, strict=True)):
            stream, pending = loaded.streams[row], running.pending or b""
            at, layout = row_of[stream], loaded.layouts[row]
            made = fold(
                applied.ruled[row], stream.name, layout.model, running.incident, decode_pending(pending),
                bool(applied.was_open[row]), own[row], histories.get(row, ()), model.stepper.slots,
            )  # fmt: skip
            before = partial(_before, model, loaded, row, packed[row])
            seen = int(own[row]["n"][-1])
            waits = not (made.has_ended or loaded.records["reorder_ms"][row])
            waits = waits and self._waits(model, running, seen, now_s)
            running = running._replace(pending=encode_pending(made.pending))
            incidents = list(made.changed.values())
            latest = running.incident
            if not (incidents or waits) and latest is not None and latest is not running.written:
                incidents = [latest]  # what waited, which these readings change nothing of
            changed.append(Changed(at, stream, running, incidents, before, seen, waits))
            put(writes, at, stream, made, pending)
            record, seed = loaded.records[row : row + 1], loaded.seeds[row]
            if record["status"][0] & KEPT and not made.goes_on(seen):
                last = int(np.flatnonzero(rows == row)[-1])
                let_go(model, record, entries[last : last + 1], writes, at, layout, seed)
            elif made.is_held:
                record["status"] |= HELD
                (writes.records[at],) = state.pack(record, [layout], [seed])
        return await self._writer.writes_of(changed, applied)

    def saved(self, applied: Applied, lost: Container[StreamKey]) -> None:
        """A batch was saved, but for streams that are lost: remember its incidents."""
        if not applied.running:
            return
        writes, now_s = applied.writes, self._clock.monotonic()
        for stream, record in zip(writes.streams, writes.records, strict=True):
            running = applied.running.get(stream)
            if running is None:
                continue
            if stream in lost:
                self._remembered.forget(stream)
            else:
                running = running._replace(since_s=now_s) if running.since_s is None else running
                self._remembered.note(stream, record, running)

    async def _known(
        self,
        model: Model,
        loaded: LoadedBatch,
        packed: Sequence[bytes | None],
        rows: Sequence[int],
        entries: Mapping[int, Entries],
        rules: Mapping[int, Rules] | None = None,
    ) -> list[Running]:
        """The latest incidents of streams as they stand before a batch: remembered, or what is kept and the history.

        Args:
            packed: the records before the batch, as the store held them.
            entries: of the rows, which are the streams' next ones.
            rules: of the rows, where they go by rules.
        """
        known: dict[int, Running] = {}
        for row in rows:
            running = self._remembered.of(loaded.streams[row], packed[row])
            if running is not None and (rules is None or running.pending is not None):
                known[row] = running.whole()
        missing = [row for row in rows if row not in known]
        if not missing:
            return [known[row] for row in rows]
        latest = await latest_of(self._store, model, loaded, {row: int(entries[row]["n"][0]) for row in missing})
        pendings: Sequence[bytes | None] = [None] * len(missing)
        if rules is not None:
            pendings = await self._store.pending_incidents([loaded.streams[row] for row in missing])
        for row, pending in zip(missing, pendings, strict=True):
            known[row] = Running(*latest[row], pending)
        return [known[row] for row in rows]

    def _waits(self, model: Model, running: Running, seen: int, now_s: float) -> bool:
        """Whether an incident may be behind its stream after a reading: its history goes back far enough.

        A late reading changes the history; so the incidents of streams that take any are written with each.

        Args:
            seen: number of the reading.
        """
        if running.written is None or not running.may_wait(now_s, self._write_s):
            return False
        return seen - running.written.seen < model.stepper.slots // 2

    async def _histories(self, rows: Sequence[int], loaded: LoadedBatch) -> dict[int, list[Scored]]:
        """The last readings of streams whose incidents begin: their onsets are sought there."""
        if not rows:
            return {}
        found = {}
        rings = await self._store.load_histories([loaded.streams[row] for row in rows])
        for row, ring in zip(rows, rings, strict=True):
            kept = loaded.recovered.get(row)  # what is in Redis may have other channels, or be of an earlier version
            found[row] = sought(
                newest_first(ring, loaded.layouts[row], loaded.seeds[row]) if kept is None else kept[::-1]
            )
        return found


def _of_rows(rows: Places, entries: Entries) -> dict[int, Entries]:
    """The entries of each row, in their order."""
    listed = rows.tolist()
    if len(set(listed)) == len(listed):
        return {row: entries[at : at + 1] for at, row in enumerate(listed)}
    return {row: entries[rows == row] for row in set(listed)}


def _before(model: Model, loaded: LoadedBatch, row: int, packed: bytes | None) -> bytes:
    """What an incident of a stream is proved from: its record before the batch."""
    asked = words(loaded.asked, row)
    if (recovered := loaded.begun.get(row)) is not None:
        return began_from(model, recovered, loaded.layouts[row], loaded.seeds[row], asked)
    return began(packed or b"", asked, model.detector)


def _nothing() -> bytes:
    """Of an incident that goes on: what it is proved from was kept when it began."""
    return b""
