"""Scorer: score a batch of readings, whatever streams they are of; load, step, judge, save. The core loop."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import structlog

from models.detector import ANOMALOUS, REASONS, STATUSES, Detector
from service import history, state
from service.answers import Answers, answer, format_time
from service.errors import StoreUnavailable
from service.history import Entries
from service.identity import Round, applied_before, decide, rounds_of
from service.metrics import Metrics
from service.schemas import Readings
from service.state import Records
from service.store import StateStore, Writes

log = structlog.get_logger(__name__)

SMALL_BATCH = 32
"""Readings; so few are scored on the event loop, in a millisecond or two: a thread's hand-over costs 0.1 ms more."""


@dataclass
class Lanes:
    """The B streams of a batch and their states before it.

    Attributes:
        streams: their names.
        fences: what Redis held of each when it was loaded.
        records: (B,) the states before; moved forward in place.
        recovered: row of a stream whose state had to be rebuilt, to the history to be written anew.
    """

    streams: list[str]
    fences: list[bytes]
    records: Records
    recovered: dict[int, Entries]


@dataclass
class Applied:
    """What a batch came to, before it is saved.

    Attributes:
        rounds: the readings that were applied, and their entries in the history.
        seen: place and row of readings that are not new.
        refused: place to the answer of a reading that cannot be applied.
        writes: what to save of each stream that changed.
        opened, closed: streams whose incident is open after an anomalous reading; streams whose incident ended.
    """

    rounds: list[tuple[Round, Entries]] = field(default_factory=list)
    seen: list[tuple[int, int]] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    writes: Writes = field(default_factory=Writes)
    opened: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)


class Scorer:
    """Scores batches with one detector over one store."""

    def __init__(
        self, detector: Detector, store: StateStore, metrics: Metrics, history_readings: int, save_attempts: int
    ) -> None:
        self._detector = detector
        self._store = store
        self._metrics = metrics
        self._answers = Answers(detector)
        self._slots = history_readings
        self._attempts = save_attempts
        self._record = state.state_dtype(detector.state_dtype)
        self._entry = history.entry_dtype(len(detector.channels))
        self._seed = history.channels_seed(detector.channels)

    async def score_batch(self, batch: Readings) -> list[str]:
        """Score readings of any streams; a stream's readings are applied in order of seq, or else of timestamp.

        A stream that another process wrote meanwhile is loaded and scored again, without the others.

        Returns:
            Each reading's answer as JSON, in the order given.

        Raises:
            StoreUnavailable: Redis did not answer, or a stream was contended for `save_attempts` times.
        """
        answers: list[str] = [""] * len(batch)
        waiting: list[int] | None = None
        for _ in range(self._attempts):
            streams, rounds = rounds_of(batch, waiting)
            load = self._metrics.stage("load")
            async with self._store.hold(streams) as held:
                lanes = await self._lanes(streams, held.packed)
                load.done()
                with self._metrics.stage("step"):
                    now_ms = int(time.time() * 1000)
                    if len(batch) <= SMALL_BATCH:
                        applied = self._apply(batch, rounds, lanes, now_ms)
                    else:
                        applied = await asyncio.to_thread(self._apply, batch, rounds, lanes, now_ms)
                with self._metrics.stage("save"):
                    if applied.writes.streams:
                        await held.send(applied.writes)
                    self._write_answers(answers, applied, lanes)
                    saved = await held.saved()
            lost = {stream for stream, ok in zip(applied.writes.streams, saved, strict=True) if not ok}
            await self._answer_seen(answers, batch, applied, lanes, lost)
            await self._mark_open(applied.opened - lost, applied.closed - lost)
            self._count(batch, applied, lanes, lost)
            if not lost:
                return answers
            places = range(len(batch)) if waiting is None else waiting
            waiting = [place for place in places if batch.streams[place] in lost]
        raise StoreUnavailable(f"other processes kept writing {len(lost)} of the streams; send the readings again")

    async def describe(self, stream: str) -> dict[str, Any] | None:
        """What is known of a stream, or None if no reading of it was ever applied."""
        lanes = await self._lanes([stream], await self._store.load([stream]))
        record = lanes.records[0]
        readings = int(record["readings"])
        if readings == 0:
            return None
        return {
            "stream": stream,
            "readings": readings,
            "last_timestamp": format_time(int(record["detector"]["last_ms"])),
            "last_seq": None if record["last_seq"] < 0 else int(record["last_seq"]),
            "status": STATUSES[record["status"] & state.STATUS_BITS],
            "score": float(record["score"]),
            "model": self._detector.name,
            "tag": bytes(record["tag"]).hex(),
        }

    async def recent(self, stream: str) -> list[dict[str, Any]]:
        """The stream's last readings, oldest first, each with its values and its answer."""
        entries = (await self._histories([stream]))[0]
        answers = self._answers.texts([stream] * len(entries), entries, replayed=True)
        values = entries["values"].astype(str).astype(np.float64).tolist()  # the shortest decimals that mean the same
        return [
            {
                "n": n,
                "values": {c: None if v != v else v for c, v in zip(self._detector.channels, row, strict=True)},
                "result": msgspec.json.decode(text),
            }
            for n, row, text in zip(entries["n"].tolist(), values, answers, strict=True)
        ]

    async def _lanes(self, streams: list[str], packed: Sequence[bytes | None]) -> Lanes:
        """Records from what Redis held; those that are absent or unusable are recovered."""
        records, flaws = state.unpack(packed, self._record, self._detector.digest, self._slots)
        lanes = Lanes(streams, [p[state.FENCE] if p else b"" for p in packed], records, {})
        if flaws:
            histories = await self._histories([streams[row] for row in flaws])
            await asyncio.to_thread(self._recover, lanes, flaws, histories)
        return lanes

    async def _histories(self, streams: Sequence[str]) -> list[Entries]:
        rings = await self._store.load_histories(streams)
        return [history.unpack_entries(ring, self._entry, self._seed)[-self._slots :] for ring in rings]

    def _recover(self, lanes: Lanes, flaws: dict[int, str], histories: list[Entries]) -> None:
        """Give streams whose record is absent or unusable a state: rebuilt from history, or a fresh one."""
        paired = list(zip(flaws.items(), histories, strict=True))
        new = [row for (row, flaw), entries in paired if flaw == "missing" and not len(entries)]
        if new:
            initial = self._detector.initial(len(new))
            lanes.records[new] = state.fresh(self._record, initial, self._detector.digest, self._slots)
        for (row, flaw), entries in paired:
            lanes.recovered[row] = entries
            if flaw == "missing" and not len(entries):
                continue
            if flaw == "history":
                lanes.records["history"][row] = self._slots
            else:
                lanes.records[row] = self._rebuild(entries)[0]
            self._metrics.rebuilt(flaw)
            log.warning("state rebuilt from history", stream=lanes.streams[row], cause=flaw, readings=len(entries))

    def _rebuild(self, entries: Entries) -> Records:
        """(1,) the state after the readings of a history, stepped from nothing by this model."""
        detector = self._detector
        record = state.fresh(self._record, detector.initial(1), detector.digest, self._slots)
        for at in range(len(entries)):
            one = entries[at : at + 1]
            step = detector.advance(one["values"], one["timestamp_ms"], record["detector"])
            record["score"], record["status"] = step.score, step.status
        if len(entries):
            record["readings"] = entries["n"][-1] + 1
            record["tag"] = entries["tag"][-1]
            record["last_seq"] = entries["seq"][-1]
        return record

    def _apply(self, batch: Readings, rounds: list[Round], lanes: Lanes, now_ms: int) -> Applied:
        """Run a batch through the detector, in rounds of at most one reading of each stream."""
        applied = Applied()
        detector, records = self._detector, lanes.records
        was_open = detector.is_open(records["detector"])
        for round_ in rounds:
            self._apply_round(applied, batch, records, round_, now_ms)
        if not applied.rounds:
            return applied
        changed = applied.rounds[0][0].rows
        if len(applied.rounds) > 1:
            changed = np.unique(np.concatenate([round_.rows for round_, _ in applied.rounds]))
        whole = len(changed) == len(records)
        row_of = dict(zip(changed.tolist(), range(len(changed)), strict=True))
        writes = applied.writes
        writes.records = state.pack(records if whole else records[changed])
        writes.streams = lanes.streams if whole else [lanes.streams[row] for row in row_of]
        writes.fences = lanes.fences if whole else [lanes.fences[row] for row in row_of]
        for row, entries in lanes.recovered.items():
            if row in row_of:
                writes.anew.append(row_of[row])
                self._write_slots(writes, [row_of[row]] * len(entries), entries)
        for round_, entries in applied.rounds:
            self._write_slots(writes, [row_of[row] for row in round_.rows.tolist()], entries)
        self._note_incidents(applied, lanes, was_open)
        return applied

    def _apply_round(self, applied: Applied, batch: Readings, records: Records, round_: Round, now_ms: int) -> None:
        """Step one reading of each of several streams; moves `records` forward."""
        rows, places = round_.rows, round_.places
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
        entries = self._step(heads, batch.seqs[places], times_ms, batch.values[places])
        if heads is not records:
            records[rows] = heads
        applied.rounds.append((Round(rows, places), entries))

    def _step(self, heads: Records, seqs: Any, times_ms: Any, values: Any) -> Entries:
        """Feed one reading of each of R streams; moves `heads` forward and returns the entries for their histories."""
        step = self._detector.advance(values, times_ms, heads["detector"])
        entries = np.empty(len(heads), self._entry)
        entries["n"] = heads["readings"]
        entries["timestamp_ms"] = times_ms
        entries["seq"] = seqs
        entries["tag"] = state.chain(heads["tag"], seqs, times_ms, values)
        entries["model"] = np.void(self._detector.digest)
        entries["score"] = step.score
        entries["status"] = step.status + step.alert * np.uint8(state.ALERT)
        entries["reason"] = step.reason
        entries["values"] = values
        entries["forecast"] = step.forecast
        entries["attribution"] = step.attribution
        heads["readings"] += 1
        heads["tag"] = entries["tag"]
        heads["last_seq"] = seqs
        heads["score"] = step.score
        heads["status"] = entries["status"]
        return entries

    def _write_slots(self, writes: Writes, rows: list[int], entries: Entries) -> None:
        offsets = (entries["n"] % np.uint64(self._slots) * np.uint64(self._entry.itemsize)).tolist()
        writes.slots += zip(rows, offsets, history.pack_entries(entries, self._seed), strict=True)

    def _note_incidents(self, applied: Applied, lanes: Lanes, was_open: Any) -> None:
        is_open = self._detector.is_open(lanes.records["detector"])
        if not (was_open | is_open).any():
            return
        applied.closed = {lanes.streams[row] for row in np.flatnonzero(was_open & ~is_open)}
        for round_, entries in applied.rounds:
            rows = round_.rows[entries["status"] & state.STATUS_BITS == ANOMALOUS]
            applied.opened |= {lanes.streams[row] for row in rows if is_open[row]}

    def _write_answers(self, answers: list[str], applied: Applied, lanes: Lanes) -> None:
        for place, text in applied.refused.items():
            answers[place] = text
        for round_, entries in applied.rounds:
            streams = [lanes.streams[row] for row in round_.rows]
            texts = self._answers.texts(streams, entries, replayed=False)
            for place, text in zip(round_.places.tolist(), texts, strict=True):
                answers[place] = text

    async def _answer_seen(
        self, answers: list[str], batch: Readings, applied: Applied, lanes: Lanes, lost: set[str]
    ) -> None:
        """Answer readings that are not new from their streams' histories: with their first answer, if it is there."""
        seen = [(place, lanes.streams[row]) for place, row in applied.seen if lanes.streams[row] not in lost]
        if not seen:
            return
        streams = sorted({stream for _, stream in seen})
        histories = dict(zip(streams, await self._histories(streams), strict=True))
        for place, stream in seen:
            entries = histories[stream]
            found = applied_before(batch, place, entries)
            if isinstance(found, int):
                (answers[place],) = self._answers.texts([stream], entries[found : found + 1], replayed=True)
                self._metrics.replayed(1)
            else:
                answers[place] = answer(found)
                self._metrics.answered(found.status, 1)

    async def _mark_open(self, opened: set[str], closed: set[str]) -> None:
        """Tell the store which streams have an open anomaly; the readings are saved, so trouble is only logged."""
        if not opened and not closed:
            return
        try:
            await self._store.mark_open(sorted(opened), sorted(closed))
        except StoreUnavailable as error:
            self._metrics.store_error("mark_open")
            log.warning("open anomalies not marked", error=str(error))

    def _count(self, batch: Readings, applied: Applied, lanes: Lanes, lost: set[str]) -> None:
        """Count what was applied and saved, and what was refused."""
        refused = sum(batch.streams[place] not in lost for place in applied.refused)
        if refused:
            self._metrics.answered("rejected", refused)
        for round_, entries in applied.rounds:
            rows = round_.rows
            if lost:
                kept = np.array([lanes.streams[row] not in lost for row in rows], bool)
                rows, entries = rows[kept], entries[kept]
            status = entries["status"]
            self._metrics.scored(entries["score"])
            for at, count in Counter((status & state.STATUS_BITS).tolist()).items():
                self._metrics.answered(STATUSES[at], count)
            for at in np.flatnonzero(status & state.ALERT).tolist():
                reason = REASONS[entries["reason"][at]]
                self._metrics.alerted(reason)
                score = float(entries["score"][at])
                log.info("anomaly opened", stream=lanes.streams[rows[at]], score=score, reason=reason)
