"""Scorer: score a batch of readings, whatever streams they are of; load, step, judge, save. The core loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from models.detector import ANOMALOUS, REASONS, STATUSES, Detector
from service import history, state
from service.errors import StoreUnavailable
from service.identity import Heads, Repeat, order
from service.metrics import Metrics
from service.schemas import Readings, Result, Wire, format_time
from service.store import StateStore, Write

log = structlog.get_logger(__name__)

Records = NDArray[Any]

SMALL_BATCH = 32
"""Readings; so few are scored on the event loop, in a millisecond or two: a thread's hand-over costs 0.1 ms more."""


@dataclass
class Lanes:
    """The B streams of a batch: their readings, in order, and their states before them.

    Attributes:
        streams: their names.
        places: where each one's readings stand in the batch.
        fences: what Redis held of each when it was loaded.
        records: (B,) the states before.
        recovered: stream's index to the history to be written anew, for states that had to be rebuilt.
    """

    streams: list[str]
    places: list[list[int]]
    fences: list[bytes]
    records: Records
    recovered: dict[int, history.Entries]


@dataclass
class Applied:
    """What a batch came to, before it is saved.

    Attributes:
        results: place in the batch to result, for readings that were applied, or late, or in conflict.
        replays: place in the batch to the applied reading that it repeats.
        writes: what to save, one for each stream that changed.
        scores: stream to the score of each new reading, and the reason of the incident it began, if it did.
        opened, closed: streams whose incident is open after an anomalous reading; streams whose incident ended.
    """

    results: dict[int, Result] = field(default_factory=dict)
    replays: dict[int, Repeat] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    scores: dict[str, list[tuple[float, str | None]]] = field(default_factory=dict)
    opened: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)


class Scorer:
    """Scores batches with one detector over one store."""

    def __init__(
        self,
        detector: Detector,
        store: StateStore,
        metrics: Metrics,
        wire: Wire,
        history_readings: int,
        save_attempts: int,
    ) -> None:
        self._detector = detector
        self._store = store
        self._metrics = metrics
        self._wire = wire
        self._slots = history_readings
        self._attempts = save_attempts
        self._record = state.state_dtype(detector.state_dtype)
        self._entry = history.entry_dtype(len(detector.channels))
        self._seed = history.channels_seed(detector.channels)

    async def score_batch(self, batch: Readings) -> list[Result]:
        """Score readings of any streams; a stream's readings are applied in order of seq, or else of timestamp.

        A stream that another process wrote meanwhile is loaded and scored again, without the others.

        Raises:
            StoreUnavailable: Redis did not answer, or a stream was contended for `save_attempts` times.
        """
        results: list[Result | None] = [None] * len(batch)
        waiting: Iterable[int] = range(len(batch))
        for _ in range(self._attempts):
            lanes = await self._load(batch, waiting)
            with self._metrics.stage("step"):
                now_ms = int(time.time() * 1000)
                if len(batch) <= SMALL_BATCH:
                    applied = self._apply(batch, lanes, now_ms)
                else:
                    applied = await asyncio.to_thread(self._apply, batch, lanes, now_ms)
            with self._metrics.stage("save"):
                saved = await self._store.save(applied.writes) if applied.writes else []
            lost = {write.stream for write, ok in zip(applied.writes, saved, strict=True) if not ok}
            await self._replay(applied, lost)
            for place, result in applied.results.items():
                results[place] = result if not lost or batch.streams[place] not in lost else None
            await self._mark_open(applied.opened - lost, applied.closed - lost)
            self._count(applied, lost)
            if not lost:
                return [result for result in results if result is not None]
            again = zip(lanes.streams, lanes.places, strict=True)
            waiting = [place for stream, places in again if stream in lost for place in places]
        raise StoreUnavailable(f"other processes kept writing {len(lost)} of the streams; send the readings again")

    async def describe(self, stream: str) -> dict[str, Any] | None:
        """What is known of a stream, or None if no reading of it was ever applied."""
        lanes = await self._load_streams([stream], [[]])
        record = lanes.records[0]
        readings = int(record["readings"])
        if readings == 0:
            return None
        slot = (readings - 1) % state.RESULTS
        return {
            "stream": stream,
            "readings": readings,
            "last_timestamp": format_time(int(record["detector"]["last_ms"])),
            "last_seq": None if record["last_seq"] < 0 else int(record["last_seq"]),
            "status": STATUSES[record["status"][slot] & state.STATUS_BITS],
            "score": float(record["score"][slot]),
            "model": self._detector.name,
            "tag": bytes(record["tag"]).hex(),
        }

    async def recent(self, stream: str) -> list[dict[str, Any]]:
        """The stream's last readings, oldest first, each with its values and its answer."""
        ring = (await self._store.load_histories([stream]))[0]
        entries = history.unpack_entries(ring, self._entry, self._seed)
        answers = self._answers([stream] * len(entries), entries, replayed=True)
        values = entries["values"].astype(str).astype(np.float64).tolist()  # the shortest decimals that mean the same
        return [
            {
                "n": n,
                "values": {c: None if v != v else v for c, v in zip(self._detector.channels, row, strict=True)},
                "result": msgspec.json.decode(msgspec.json.encode(answer)),
            }
            for n, row, answer in zip(entries["n"].tolist(), values, answers, strict=True)
        ]

    async def _load(self, batch: Readings, places: Iterable[int]) -> Lanes:
        """Group readings by stream, in each stream's order, and load or recover the streams' states."""
        by_stream: dict[str, list[int]] = {}
        streams = batch.streams
        for place in places:
            by_stream.setdefault(streams[place], []).append(place)
        for queue in by_stream.values():
            if len(queue) > 1:
                queue.sort(key=lambda place: order(batch.seqs[place], batch.timestamps_ms[place]))
        return await self._load_streams(list(by_stream), list(by_stream.values()))

    async def _load_streams(self, streams: list[str], places: list[list[int]]) -> Lanes:
        with self._metrics.stage("load"):
            packed = await self._store.load(streams)
            records, flaws = state.unpack(packed, self._record, self._detector.digest, self._slots)
        lanes = Lanes(streams, places, [p[state.FENCE] if p else b"" for p in packed], records, {})
        if flaws:
            rings = await self._store.load_histories([streams[at] for at in flaws])
            await asyncio.to_thread(self._recover, lanes, flaws, rings)
        return lanes

    def _recover(self, lanes: Lanes, flaws: dict[int, str], rings: Sequence[bytes]) -> None:
        """Give streams whose record is absent or unusable a state: rebuilt from history, or a fresh one."""
        new = [at for (at, flaw), ring in zip(flaws.items(), rings, strict=True) if flaw == "missing" and not ring]
        if new:
            initial = self._detector.initial(len(new))
            lanes.records[new] = state.fresh(self._record, initial, self._detector.digest, self._slots)
            lanes.recovered.update(dict.fromkeys(new, np.empty(0, self._entry)))
        for (at, flaw), ring in zip(flaws.items(), rings, strict=True):
            if at in lanes.recovered:
                continue
            entries = history.unpack_entries(ring, self._entry, self._seed)[-self._slots :]
            if flaw == "history":
                lanes.records["history"][at] = self._slots
            else:
                lanes.records[at] = self._rebuild(entries)[0]
            lanes.recovered[at] = entries
            self._metrics.rebuilt(flaw)
            log.warning("state rebuilt from history", stream=lanes.streams[at], cause=flaw, readings=len(entries))

    def _rebuild(self, entries: history.Entries) -> Records:
        """(1,) the state after the readings of a history, stepped from nothing by this model."""
        detector = self._detector
        states = detector.initial(1)
        if not len(entries):
            return state.fresh(self._record, states, detector.digest, self._slots)
        for at in range(len(entries)):
            states = detector.step(entries["values"][at : at + 1], entries["timestamp_ms"][at : at + 1], states).states
        record = state.fresh(self._record, states, detector.digest, self._slots)
        record["readings"] = entries["n"][-1] + 1
        record["tag"] = entries["tag"][-1]
        record["last_seq"] = entries["seq"][-1]
        last = entries[-state.RESULTS :]
        chained = state.payloads(last["seq"].tolist(), last["timestamp_ms"].tolist(), last["values"])
        _remember(record, np.zeros(len(last), np.intp), last, chained)
        return record

    def _apply(self, batch: Readings, lanes: Lanes, now_ms: int) -> Applied:
        """Run a batch through the detector, in rounds of at most one reading of each stream."""
        applied = Applied()
        heads = Heads(lanes.records, lanes.streams)
        was_open = self._detector.is_open(lanes.records["detector"])
        anomalous: set[int] = set()
        slots: list[list[tuple[int, bytes]]] = [[] for _ in lanes.streams]
        pending = [iter(places) for places in lanes.places]
        active = list(range(len(lanes.streams)))
        while active:
            rows: list[int] = []
            places: list[int] = []
            for row in active:
                for place in pending[row]:
                    decided = heads.decide(row, batch, place, now_ms)
                    if decided is None:
                        rows.append(row)
                        places.append(place)
                        break
                    if isinstance(decided, Repeat):
                        applied.replays[place] = decided
                    else:
                        applied.results[place] = decided
            if rows:
                entries = self._round(batch, lanes.records, heads, rows, places)
                names = [lanes.streams[row] for row in rows]
                applied.results.update(zip(places, self._answers(names, entries, replayed=False), strict=True))
                self._collect(applied, entries, rows, names, slots, anomalous)
            active = rows
        is_open = self._detector.is_open(lanes.records["detector"])
        changed = [row for row, new in enumerate(slots) if new]
        packed = state.pack(lanes.records if len(changed) == len(slots) else lanes.records[changed])
        for row, record in zip(changed, packed, strict=True):
            stream, recovered = lanes.streams[row], lanes.recovered.get(row)
            kept = self._slots_of(recovered) if recovered is not None and len(recovered) else []
            applied.writes.append(Write(stream, lanes.fences[row], record, recovered is not None, kept + slots[row]))
            if is_open[row] and row in anomalous:
                applied.opened.add(stream)
            elif was_open[row] and not is_open[row]:
                applied.closed.add(stream)
        return applied

    def _round(
        self, batch: Readings, records: Records, heads: Heads, rows: list[int], places: list[int]
    ) -> history.Entries:
        """Step one reading of each of several streams; write states and results into `records`."""
        at = np.array(rows, np.intp)
        values = batch.values[places]  # (B, C)
        moments = [heads.last_ms[row] for row in rows]
        seqs = [heads.last_seq[row] for row in rows]
        step = self._detector.step(values, np.array(moments, np.int64), records["detector"][at])
        chained = state.payloads(seqs, moments, values)
        entries = np.zeros(len(rows), self._entry)
        entries["n"] = [heads.readings[row] for row in rows]
        entries["timestamp_ms"] = moments
        entries["seq"] = seqs
        entries["tag"] = np.array(heads.advance(rows, chained), "V16")
        entries["model"] = np.void(self._detector.digest)
        entries["score"] = step.score
        entries["status"] = step.status | np.where(step.alert, state.ALERT, 0).astype(np.uint8)
        entries["reason"] = step.reason
        entries["values"] = values
        entries["expected"] = step.expected
        entries["attribution"] = step.attribution
        records["detector"][at] = step.states
        records["readings"][at] = entries["n"] + 1
        records["tag"][at] = entries["tag"]
        records["last_seq"][at] = seqs
        _remember(records, at, entries, chained)
        return entries

    def _collect(
        self,
        applied: Applied,
        entries: history.Entries,
        rows: list[int],
        names: list[str],
        slots: list[list[tuple[int, bytes]]],
        anomalous: set[int],
    ) -> None:
        """Note what is to be written and counted of one round."""
        for row, slot in zip(rows, self._slots_of(entries), strict=True):
            slots[row].append(slot)
        statuses = entries["status"].tolist()
        columns = zip(rows, names, statuses, entries["score"].tolist(), entries["reason"].tolist(), strict=True)
        for row, name, status, score, reason in columns:
            if status & state.STATUS_BITS == ANOMALOUS:
                anomalous.add(row)
            alert = REASONS[reason] if status & state.ALERT else None
            applied.scores.setdefault(name, []).append((score, alert))

    def _slots_of(self, entries: history.Entries) -> list[tuple[int, bytes]]:
        """Offset in the ring and bytes of each entry."""
        offsets = entries["n"].astype(np.int64) % self._slots * self._entry.itemsize
        return list(zip(offsets.tolist(), history.pack_entries(entries, self._seed), strict=True))

    def _answers(self, streams: Sequence[str], entries: history.Entries, replayed: bool) -> list[Result]:
        """The results of applied readings, from their entries in the history."""
        if not len(entries):
            return []
        times: dict[int, str] = {}
        answers = []
        for stream, moment, seq, status, score, band, share, reason, model in zip(
            streams,
            entries["timestamp_ms"].tolist(),
            entries["seq"].tolist(),
            (entries["status"] & state.STATUS_BITS).tolist(),
            entries["score"].tolist(),
            self._wire.bands(entries["expected"]),
            self._wire.shares(entries["attribution"]),
            entries["reason"].tolist(),
            entries["model"].tolist(),
            strict=True,
        ):
            if moment not in times:
                times[moment] = format_time(moment)
            answers.append(
                Result(
                    stream,
                    times[moment],
                    None if seq < 0 else seq,
                    STATUSES[status],
                    score,
                    band,
                    share,
                    REASONS[reason] if status == ANOMALOUS else None,
                    model.hex(),
                    replayed,
                )
            )
        return answers

    async def _replay(self, applied: Applied, lost: set[str]) -> None:
        """Answer readings sent again with their first answer, from this batch or from the history in Redis."""
        wanted = {place: repeat for place, repeat in applied.replays.items() if repeat.answer.stream not in lost}
        if not wanted:
            return
        streams = sorted({str(repeat.answer.stream) for repeat in wanted.values()})
        known: dict[tuple[str | None, int], Result] = {}
        for stream, ring in zip(streams, await self._store.load_histories(streams), strict=True):
            entries = history.unpack_entries(ring, self._entry, self._seed)[-state.RESULTS :]
            answers = self._answers([stream] * len(entries), entries, replayed=True)
            known.update(((stream, n), answer) for n, answer in zip(entries["n"].tolist(), answers, strict=True))
        for place, repeat in wanted.items():
            applied.results[place] = known.get((repeat.answer.stream, repeat.n), repeat.answer)

    async def _mark_open(self, opened: set[str], closed: set[str]) -> None:
        """Tell the store which streams have an open anomaly; the readings are saved, so trouble is only logged."""
        if not opened and not closed:
            return
        try:
            await self._store.mark_open(sorted(opened), sorted(closed))
        except StoreUnavailable as error:
            self._metrics.store_error("mark_open")
            log.warning("open anomalies not marked", error=str(error))

    def _count(self, applied: Applied, lost: set[str]) -> None:
        kept = [(stream, scores) for stream, scores in applied.scores.items() if stream not in lost]
        self._metrics.scored([score for _, scores in kept for score, _ in scores])
        for stream, scores in kept:
            for score, alert in scores:
                if alert:
                    self._metrics.alerted(alert)
                    log.info("anomaly opened", stream=stream, score=score, reason=alert)


def _remember(records: Records, rows: NDArray[np.intp], entries: history.Entries, payloads: list[bytes]) -> None:
    """Write the results of readings, at most one a slot, into the records' rings."""
    slots = (entries["n"] % state.RESULTS).astype(np.intp)
    numbered = entries["seq"] >= 0
    records["identity"][rows, slots] = np.where(numbered, entries["seq"], entries["timestamp_ms"])
    records["digest"][rows, slots] = [state.values_digest(payload) for payload in payloads]
    records["score"][rows, slots] = entries["score"]
    records["status"][rows, slots] = entries["status"] | np.where(numbered, state.SEQ_KIND, 0).astype(np.uint8)
