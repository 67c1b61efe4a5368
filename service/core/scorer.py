"""Scorer: score a batch of readings, whatever streams they are of; load, step, judge, save. The core loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import numpy as np
import structlog

from gatewatch.models.detectors.detector import STATUSES, Detector
from gatewatch.service.core import corrections, history
from gatewatch.service.core import records as state
from gatewatch.service.core.bookkeeping import Bookkeeping
from gatewatch.service.core.contention import ContentionBackoff
from gatewatch.service.core.corrector import Corrector
from gatewatch.service.core.first_look import FirstLook
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout
from gatewatch.service.core.readings import NO_SEQ, Readings
from gatewatch.service.core.records import Records
from gatewatch.service.core.recovery import Lost, recover
from gatewatch.service.core.sequencing import (
    Round,
    counts_anew,
    decide,
    fills_a_hole,
    is_asked,
    joined,
    rounds_of,
    unanswered,
)
from gatewatch.service.core.stepper import Stepper
from gatewatch.service.core.store import Store, Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.core.stream_limit import StreamLimit
from gatewatch.service.core.stream_settings import StreamSettings
from gatewatch.service.core.takeover import Takeover
from gatewatch.service.doors.json_results import Answers, answer, format_time, rejected
from gatewatch.service.errors import BadRequest, Contended, ServiceError, StoreUnavailable
from gatewatch.service.observability.metrics import Metrics

log = structlog.get_logger(__name__)

SMALL_BATCH = 32
"""Readings; so few are scored on the event loop, in a millisecond or two: a thread's hand-over costs 0.1 ms more."""

Answer = str | ServiceError | asyncio.Future[str]
"""A reading's answer; or why it has none, which concerns its stream alone; or the future of one that comes later."""


HISTORIES_BYTES = 16 * 2**20
"""Of histories loaded at a time, to look for what is sent again; but at least one."""

FEW_BYTES = 2**20
"""Of histories; so few are searched on the event loop, in a millisecond or two."""


MAY_BE_OLD = ("format", "missing", "corrupt")
"""Flaws of records that a version before format 4 may have written."""


@dataclass
class Lanes:
    """The B streams of a batch and their states before it.

    Attributes:
        streams: their names.
        seeds: where the checksums of their records start.
        fences: what Redis held of each when it was loaded.
        records: (B,) the states before; moved forward in place.
        layouts: (B,) which channels each has sent.
        recovered: row of a stream whose state had to be rebuilt, to the history to be written anew, in its channels.
        causes: row of such a stream to what was wrong with its record; not of new streams.
        new: rows of new streams.
        excess: those of them that are more than there may be; see `_admit`.
        overwritten: streams that a version before format 4 wrote after this one, unless their save finds otherwise.
    """

    streams: list[StreamKey]
    seeds: list[int]
    fences: list[bytes]
    records: Records
    layouts: list[Layout]
    recovered: dict[int, Entries] = field(default_factory=dict)
    causes: dict[int, str] = field(default_factory=dict)
    new: list[int] = field(default_factory=list)
    excess: set[int] = field(default_factory=set)
    overwritten: set[StreamKey] = field(default_factory=set)


@dataclass
class Applied:
    """What a batch came to, before it is saved.

    Attributes:
        writes: what to save of each stream that changed.
        rounds: the readings that were applied, and their entries in the history.
        seen: place and row of readings that are not new.
        refused: place to the answer of a reading that cannot be applied.
        joined: place of a reading that was joined into another, to the place of that one.
        earlier: row and slot to an earlier record to be kept, of streams with a reorder window.
    """

    writes: Writes
    rounds: list[tuple[Round, Entries]] = field(default_factory=list)
    seen: list[tuple[int, int]] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    joined: dict[int, int] = field(default_factory=dict)
    earlier: dict[tuple[int, int], bytes] = field(default_factory=dict)


class Scorer:
    """Scores batches with one detector over one store."""

    def __init__(
        self,
        detector: Detector,
        store: Store,
        metrics: Metrics,
        history_readings: int,
        save_attempts: int,
        most_streams: int,
        turns: ContentionBackoff,
        takeover: Takeover,
        correcting_ms: float = 2000.0,
    ) -> None:
        self._takeover = takeover
        self.turns = turns
        self.books = Bookkeeping(metrics, store)
        self._detector = detector
        self._store = store
        self._metrics = metrics
        self._answers = Answers(detector.channels)
        self._stepper = Stepper(detector, history_readings)
        self._attempts = save_attempts
        self._first_look = FirstLook(store, self._stepper)
        self._newcomers = StreamLimit(store, most_streams)
        self.corrector = Corrector(
            store,
            self._stepper,
            self._answers,
            metrics,
            turns,
            save_attempts,
            correcting_ms,
            self._lanes,
            self._corrected,
        )

    async def score_batch(self, batch: Readings) -> list[Answer]:
        """Score readings of any streams; a stream's readings are applied in order of seq, or else of timestamp.

        A stream that another process wrote meanwhile is loaded and scored again, without the others.

        Returns:
            Each reading's answer as JSON, in the order given; the future of it for a late reading that may take its
            place; or the error that its stream met alone: Contended, if other processes wrote it `save_attempts`
            times, or TooManyWaiting, if too many late ones wait.

        Raises:
            StoreUnavailable: Redis did not answer.
        """
        await self._takeover.claim()
        try:
            return await self._score_batch(batch)
        finally:
            self._newcomers.end(batch.streams)

    async def _score_batch(self, batch: Readings) -> list[Answer]:
        answers: list[Answer] = [""] * len(batch)
        waiting: Sequence[int] = range(len(batch))
        left, deep = self._attempts, len(batch)
        loop = asyncio.get_running_loop()
        while True:
            streams, rounds = rounds_of(batch, waiting)
            began, load = loop.time(), self._metrics.stage("load")
            async with self._store.begin(streams, cached=not self.turns.shares(streams)) as held:
                lanes = await self._lanes(streams, held.packed, sound=held.from_cache)
                await self._admit(lanes)
                self.turns.loaded(streams, lanes.fences, began)
                load.done()
                taken, into = batch, dict[int, int]()
                if np.count_nonzero(lanes.records["join"]):
                    taken, rounds, into = joined(batch, rounds, lanes.records["join"] > 0)
                later = {place for round_ in rounds[deep:] for place in round_.places.tolist()}
                later |= {place for place, first in into.items() if first in later}
                with self._metrics.stage("step"):
                    now_ms = int(time.time() * 1000)
                    if len(batch) <= SMALL_BATCH:
                        applied = self._apply(taken, rounds[:deep], lanes, now_ms)
                    else:
                        applied = await asyncio.to_thread(self._apply, taken, rounds[:deep], lanes, now_ms)
                if not await held.confirmed(not (applied.seen or applied.refused)):
                    self._first_look.forget(lanes.seeds)
                    continue
                with self._metrics.stage("save"):
                    if applied.writes.streams:
                        self.books.alerts_of(applied.writes, applied.rounds, lanes.streams)
                        await held.send(applied.writes)
                    self._write_answers(answers, applied, lanes)
                    try:
                        saved = await held.saved()
                    except StoreUnavailable:
                        self.books.unsure(applied, lanes.streams)
                        raise
            lost = {stream for stream, ok in zip(applied.writes.streams, saved, strict=True) if not ok}
            now = loop.time()
            self.turns.saved(applied.writes.streams, applied.writes.records, lost, now - began, now)
            if held.unsure:
                self.books.unsure(applied, lanes.streams, lost)
            self.books.count(batch, applied, lanes, lost)
            for stream in lanes.overwritten - lost:
                self._takeover.overwritten(stream)
            await self._drop_old_histories(lanes, set(applied.writes.streams) - lost)
            later |= await self._answer_seen(answers, taken, applied, lanes, lost)
            for place, first in into.items():
                answers[place] = answers[first]
            if lost:
                if held.from_cache:
                    self._first_look.forget(
                        [lanes.seeds[row] for row, name in enumerate(lanes.streams) if name in lost]
                    )
                left, deep = left - 1, max(1, len(rounds[:deep]) // 2)  # what takes less time is less often overtaken
                if not left:
                    error = Contended(f"other processes kept writing {len(lost)} streams; send the readings again")
                    contended = {place for place in waiting if batch.streams[place] in lost}
                    log.warning("streams not scored", streams=len(lost), error=str(error))
                    answers = [error if at in contended else text for at, text in enumerate(answers)]
                    later.difference_update(contended)
                    left, lost = self._attempts, set()
            if not lost and not later:
                return answers
            waiting = [p for p in waiting if batch.streams[p] in lost or p in later or into.get(p) in later]

    async def store_answers(self) -> bool:
        """Whether Redis answers at once."""
        return await self._store.ping()

    async def describe(self, stream: StreamKey) -> dict[str, Any] | None:
        """What is known of a stream, or None for one that has neither readings nor settings."""
        packed = await self._store.load([stream])
        (seed,) = self._store.seeds([stream])
        if part := state.stream_part(packed[0] or b"", seed):
            record, model = part[0][0], part[2][: len(self._detector.digest)].hex()
        else:
            record, model = (await self._lanes([stream], packed)).records[0], self._detector.name
        readings = int(record["readings"])
        if packed[0] is None and readings == 0:
            return None
        return {
            "stream": stream.name,
            "readings": readings,
            "last_timestamp": format_time(int(record["last_ms"])) if readings else None,
            "last_seq": None if record["last_seq"] < 0 else int(record["last_seq"]),
            "session": int(record["session"]),
            "status": STATUSES[record["status"] & state.STATUS_BITS],
            "score": float(record["score"]) if readings else None,
            **StreamSettings.of(record).model_dump(),
            "model": model,
            "tag": bytes(record["tag"]).hex(),
        }

    async def configure(self, stream: StreamKey, settings: StreamSettings) -> None:
        """Give a stream its settings, whether it has seen a reading or not."""
        try:
            for _ in range(self._attempts):
                async with self._store.begin([stream]) as held:
                    lanes = await self._lanes([stream], held.packed)
                    await self._admit(lanes)
                    if lanes.excess:
                        raise BadRequest(self._newcomers.refusal)
                    settings.write(lanes.records)
                    await self._store.save_settings(stream, settings.encode())
                    await held.send(self._whole(lanes))
                    if (await held.saved())[0]:
                        return
        finally:
            self._newcomers.end([stream])
        raise Contended(f"other processes kept writing stream {stream.name}; send the settings again")

    def _whole(self, lanes: Lanes) -> Writes:
        """What saves one stream as it is, its history too where that was recovered."""
        slots = [
            slot
            for row, kept in lanes.recovered.items()
            for slot in self._stepper.slots_anew(lanes.layouts[row], lanes.seeds[row], row, kept)
        ]
        records = state.pack(lanes.records, lanes.layouts, lanes.seeds)
        return Writes(round(time.time(), 3), lanes.streams, lanes.fences, records, slots, list(lanes.recovered))

    async def restart_sequence(self, stream: StreamKey, time_ms: int | None = None, session: int = 0) -> bool:
        """Begin a session of a stream: its sender counts anew from its next reading on. False if there is no stream.

        Args:
            time_ms: of the first reading of the session; None where the operator says so.
            session: the number of the one before, as it was when that reading came.
        """
        for _ in range(self._attempts):
            async with self._store.begin([stream]) as held:
                lanes = await self._lanes([stream], held.packed)
                record = lanes.records[0]
                if lanes.new:
                    return False
                count, asked = int(record["last_seq"]), is_asked(record)
                if time_ms is not None and (
                    record["session"] != session or (not asked and time_ms <= record["newest_ms"])
                ):
                    return True  # another process was first
                if time_ms is not None and asked:
                    record["session_ms"] = min(record["session_ms"], time_ms)
                else:
                    record["session"] += 1
                    record["last_seq"] = NO_SEQ
                    record["session_ms"] = record["newest_ms"] + 1 if time_ms is None else time_ms
                await held.send(self._whole(lanes))
                if (await held.saved())[0]:
                    self._metrics.sequence_restarted()
                    log.warning("sender counts anew", stream=stream.name, last_seq=count, asked=time_ms is None)
                    return True
        raise Contended(f"other processes kept writing stream {stream.name}; send the request again")

    async def recent(self, stream: StreamKey) -> list[dict[str, Any]]:
        """The stream's last readings, oldest first, each with its values and its answer."""
        packed = await self._store.load([stream])
        (seed,) = self._store.seeds([stream])
        if part := state.stream_part(packed[0] or b"", seed):
            layout = part[1]
            (ring,) = await self._store.load_histories([stream])
            kept = self._stepper.read_history(ring, layout, seed)
        else:
            lanes = await self._lanes([stream], packed)
            (layout,), kept = lanes.layouts, lanes.recovered[0]
        answers = self._answers.kept_texts([stream] * len(kept), kept, layout, replayed=True)
        single = kept["single"] > 0
        values = kept["values"].copy()
        values[single] = values[single].astype(np.float32).astype(str).astype(np.float64)  # the shortest that mean it
        return [
            {
                "n": n,
                "values": {c: None if v != v else v for c, v in zip(layout.channels, row, strict=True)},
                "result": msgspec.json.decode(text),
            }
            for n, row, text in zip(kept["n"].tolist(), values.tolist(), answers, strict=True)
        ]

    async def _lanes(self, streams: list[StreamKey], packed: Sequence[bytes | None], sound: bool = False) -> Lanes:
        """Records from what Redis held; those that are absent or unusable are recovered.

        Args:
            sound: they were written by this process, and need no look.
        """
        stepper, usual, size = self._stepper, self._stepper.usual, self._stepper.record.itemsize
        seeds = self._store.seeds(streams)
        if sound:
            written = cast("Sequence[bytes]", packed)
            records = state.sound([p[:size] for p in written], stepper.record)
            layouts = [state.layout_in(p, usual, size) for p in written]
            return Lanes(streams, seeds, [p[state.FENCE] for p in written], records, layouts)
        records, layouts, flaws = state.unpack(
            packed, seeds, stepper.record, usual, self._detector.digest, stepper.slots
        )
        lanes = Lanes(streams, seeds, [state.fence_of(p) for p in packed], records, layouts)
        self._takeover.check(records["takeover"])
        rows = [row for row in range(len(streams)) if row not in flaws]
        flaws |= dict.fromkeys(await self._first_look.stale(rows, streams, seeds, layouts, records), "stale")
        if flaws:
            names = [streams[row] for row in flaws]
            rings, settings = await self._store.load_histories(names), await self._store.load_settings(names)
            for row, flaw in flaws.items():
                if flaw == "corrupt":
                    await self._store.quarantine(streams[row], packed[row] or b"")
            old_rings = await self._old_rings(streams, flaws, rings)
            await asyncio.to_thread(self._recover, lanes, packed, flaws, rings, old_rings)
            lanes.new = [row for row in flaws if row not in lanes.causes]
            for row, content in zip(flaws, settings, strict=True):
                if content:
                    StreamSettings.decode(content).write(lanes.records[row : row + 1])
        records["takeover"] = self._takeover.number
        return lanes

    async def _old_rings(
        self, streams: list[StreamKey], flaws: dict[int, str], rings: Sequence[bytes]
    ) -> dict[int, bytes]:
        """What a version before format 4 kept as history, of streams that may have one.

        Args:
            rings: what this version keeps of them.
        """
        rows = [
            row
            for (row, flaw), ring in zip(flaws.items(), rings, strict=True)
            if flaw == "format" or (flaw in MAY_BE_OLD and not ring)
        ]
        if not rows:
            return {}
        rings = await self._store.load_old_histories([streams[row] for row in rows])
        return dict(zip(rows, rings, strict=True))

    async def _drop_old_histories(self, lanes: Lanes, saved: set[StreamKey]) -> None:
        """Forget what a version before format 4 kept of streams that were converted and saved."""
        converted = [lanes.streams[row] for row, cause in lanes.causes.items() if cause in MAY_BE_OLD]
        if converted and saved.issuperset(converted):
            with contextlib.suppress(StoreUnavailable):  # it is only in the way
                await self._store.drop_old_histories(converted)

    async def _admit(self, lanes: Lanes) -> None:
        """Tell which new streams are more than there may be."""
        if lanes.new:
            admitted = await self._newcomers.admit(lanes.streams, [lanes.streams[row] for row in lanes.new])
            lanes.excess = set(lanes.new[admitted:])

    def _recover(
        self,
        lanes: Lanes,
        packed: Sequence[bytes | None],
        flaws: dict[int, str],
        rings: Sequence[bytes],
        old_rings: dict[int, bytes],
    ) -> None:
        """Give streams whose record is absent or not this model's a state; see recovery.py."""
        lost = [
            Lost(flaw, packed[row] or b"", lanes.seeds[row], ring, old_rings.get(row, b""))
            for (row, flaw), ring in zip(flaws.items(), rings, strict=True)
        ]
        for row, loss, found in zip(flaws, lost, recover(self._stepper, lost), strict=True):
            self._takeover.check(found.record["takeover"])
            lanes.records[row] = found.record[0]
            lanes.layouts[row], lanes.recovered[row] = found.layout, found.kept
            if found.overwritten:
                lanes.overwritten.add(lanes.streams[row])
            if loss.flaw != "missing" or len(found.kept):
                lanes.causes[row] = loss.flaw

    def _apply(self, batch: Readings, rounds: list[Round], lanes: Lanes, now_ms: int) -> Applied:
        """Run a batch through the detector, in rounds of at most one reading of each stream."""
        applied = Applied(Writes(now_ms / 1000))
        detector, records = self._detector, lanes.records
        was_open = detector.is_open(records["detector"])
        for round_ in rounds:
            if lanes.excess:
                round_ = self._without_excess(applied, batch, lanes, round_)
            if len(round_.rows):
                self._apply_round(applied, batch, lanes, round_, now_ms)
        if not applied.rounds and not lanes.causes:
            return applied
        changed = applied.rounds[0][0].rows if applied.rounds else np.empty(0, np.intp)
        if len(applied.rounds) > 1:  # from here on they are one
            rows, places = (
                np.concatenate([getattr(r, what) for r, _ in applied.rounds]) for what in ("rows", "places")
            )
            applied.rounds = [(Round(rows, places), np.concatenate([entries for _, entries in applied.rounds]))]
            changed = np.unique(rows)
        if lanes.causes:  # a rebuilt state is kept though no reading is new: the history then answers those sent again
            changed = np.union1d(changed, list(lanes.causes))
        whole = len(changed) == len(records)
        row_of = dict(zip(changed.tolist(), range(len(changed)), strict=True))
        writes = applied.writes
        seeds = lanes.seeds if whole else [lanes.seeds[row] for row in row_of]
        layouts = lanes.layouts if whole else [lanes.layouts[row] for row in row_of]
        writes.records = state.pack(records if whole else records[changed], layouts, seeds)
        writes.streams = lanes.streams if whole else [lanes.streams[row] for row in row_of]
        writes.fences = lanes.fences if whole else [lanes.fences[row] for row in row_of]
        for row, entries in lanes.recovered.items():  # of streams with a rebuilt state, and of new ones
            if row in row_of:
                writes.anew.append(row_of[row])
                writes.slots += self._stepper.slots_anew(lanes.layouts[row], lanes.seeds[row], row_of[row], entries)
        for round_, entries in applied.rounds:
            at = [row_of[row] for row in round_.rows.tolist()]
            writes.slots += self._stepper.slots_in(
                [layouts[row] for row in at], [seeds[row] for row in at], at, entries
            )
        writes.earlier = {(row_of[row], slot): record for (row, slot), record in applied.earlier.items()}
        writes.opened, writes.closed = self._incidents(lanes.streams, was_open, records)
        return applied

    def _without_excess(self, applied: Applied, batch: Readings, lanes: Lanes, round_: Round) -> Round:
        """Refuse readings that would begin one stream too many."""
        excess = np.isin(round_.rows, list(lanes.excess))
        error = self._newcomers.refusal
        for place in round_.places[excess].tolist():
            seq = None if batch.seqs[place] == NO_SEQ else int(batch.seqs[place])
            applied.refused[place] = answer(rejected(batch.streams[place].name, None, seq, error))
        return Round(round_.rows[~excess], round_.places[~excess])

    def _apply_round(self, applied: Applied, batch: Readings, lanes: Lanes, round_: Round, now_ms: int) -> None:
        """Step one reading of each of several streams; moves their records forward."""
        records, rows, places = lanes.records, round_.rows, round_.places
        heads = records if len(rows) == len(records) else records[rows]
        decision = decide(batch, places, heads, now_ms)
        times_ms = decision.times_ms
        if not decision.new.all():
            for at in np.flatnonzero(~decision.new).tolist():
                if at in decision.refused:
                    applied.refused[int(places[at])] = answer(decision.refused[at])
                else:
                    applied.seen.append((int(places[at]), int(rows[at])))
            rows, places, times_ms = rows[decision.new], places[decision.new], times_ms[decision.new]
            heads = records[rows]
            if not len(rows):
                return
        kept = corrections.due(heads, times_ms)
        if len(kept):
            kept_rows = rows[kept].tolist()
            earlier = corrections.keep(
                heads, kept, [lanes.layouts[row] for row in kept_rows], [lanes.seeds[row] for row in kept_rows]
            )
            for row, (slot, record) in zip(kept_rows, earlier, strict=True):
                applied.earlier[row, slot] = record
        if stepped := np.count_nonzero((times_ms < heads["last_ms"]) & (heads["readings"] > 0)):
            self._metrics.clock_stepped(int(stepped))
        entries = self._stepper.step(heads, batch.seqs[places], times_ms, batch.values[places])
        if heads is not records:
            records[rows] = heads
        applied.rounds.append((Round(rows, places), entries))

    def _incidents(
        self, streams: list[StreamKey], was_open: Any, records: Records
    ) -> tuple[set[StreamKey], set[StreamKey]]:
        """Streams that are in an incident, and those whose incident ended."""
        is_open = self._detector.is_open(records["detector"])
        if not (was_open | is_open).any():
            return set(), set()
        opened, closed = np.flatnonzero(is_open), np.flatnonzero(was_open & ~is_open)
        return {streams[row] for row in opened}, {streams[row] for row in closed}

    def _write_answers(self, answers: list[Answer], applied: Applied, lanes: Lanes) -> None:
        for place, text in applied.refused.items():
            answers[place] = text
        for round_, entries in applied.rounds:
            streams = [lanes.streams[row] for row in round_.rows.tolist()]
            texts = self._answers.texts(streams, entries, replayed=False)
            for place, text in zip(round_.places.tolist(), texts, strict=True):
                answers[place] = text

    async def _answer_seen(
        self, answers: list[Answer], batch: Readings, applied: Applied, lanes: Lanes, lost: set[StreamKey]
    ) -> set[int]:
        """Answer readings that are not new from their streams' histories: with their first answer, if it is there.

        Returns:
            The places of those that are new after all: their sender counts anew.
        """
        seen = [(place, row) for place, row in applied.seen if lanes.streams[row] not in lost]
        if not seen:
            return set()
        repeats: dict[Layout, list[tuple[int, Entries]]] = {}
        restarted: dict[int, set[int]] = {}
        for (place, row), known in zip(seen, await self._known(batch, seen, lanes), strict=True):
            layout, record, time_ms = lanes.layouts[row], lanes.records[row], int(batch.timestamps_ms[place])
            if row in restarted or (
                counts_anew(batch, place, known, layout, record)
                and await self._begins_anew(lanes, row, int(batch.seqs[place]), time_ms)
            ):
                restarted.setdefault(row, set()).add(place)
                continue
            result = unanswered(batch, place, known, layout, record)
            if result is None:
                repeats.setdefault(layout, []).append((place, known))
            elif result.status == "late" and corrections.within_window(record, time_ms):
                answers[place] = self.corrector.take(batch, place, record)
            else:
                answers[place] = answer(result)
                self._metrics.answered(result.status, 1)
        for layout, repeated in repeats.items():
            streams = [batch.streams[place] for place, _ in repeated]
            kept = np.concatenate([known for _, known in repeated])
            texts = self._answers.kept_texts(streams, kept, layout, replayed=True)
            for (place, _), text in zip(repeated, texts, strict=True):
                answers[place] = text
            await self.books.replayed(streams, kept)
        return set().union(*restarted.values())

    async def _begins_anew(self, lanes: Lanes, row: int, seq: int, time_ms: int) -> bool:
        """Begin a session of a stream with a reading, unless that was only overtaken by those around it."""
        stream, record = lanes.streams[row], lanes.records[row]
        (ring,) = await self._store.load_histories([stream])
        kept = self._stepper.read_history(ring, lanes.layouts[row], lanes.seeds[row])
        if fills_a_hole(seq, kept, record):
            return False
        return await self.restart_sequence(stream, time_ms, int(record["session"]))

    async def _known(self, batch: Readings, seen: list[tuple[int, int]], lanes: Lanes) -> list[Entries]:
        """Of each place and row, (0 or 1,) the entry of the stream's history with the reading's identity."""
        stepper = self._stepper
        places: dict[int, list[int]] = {}
        for place, row in seen:
            places.setdefault(row, []).append(place)
        found: dict[int, Entries] = {}

        def find(rows: Sequence[int], rings: Sequence[bytes]) -> None:
            for row, ring in zip(rows, rings, strict=True):
                of_row = places[row]
                seqs, times_ms = batch.seqs[of_row].tolist(), batch.timestamps_ms[of_row].tolist()
                known = history.find_each(
                    ring, lanes.layouts[row], lanes.seeds[row], seqs, times_ms, batch.values[of_row]
                )
                found.update(zip(of_row, known, strict=True))

        together = max(1, HISTORIES_BYTES // (stepper.slots * stepper.entry.itemsize))
        every = list(places)
        for start in range(0, len(every), together):
            rows = every[start : start + together]
            rings = await self._store.load_histories([lanes.streams[row] for row in rows])
            if sum(map(len, rings)) < FEW_BYTES:
                find(rows, rings)
            else:
                await asyncio.to_thread(find, rows, rings)
        return [found[place] for place, _ in seen]

    def _corrected(self, stream: StreamKey, late: Entries, alerts: Sequence[bytes]) -> None:
        """Count late readings that took their places, and tell the alerts of incidents that began with them."""
        self.books.count_entries([stream] * len(late), late)
        for alert in alerts:
            self.books.tell(alert)
