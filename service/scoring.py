"""Scorer: score a batch of readings, whatever streams they are of; load, step, judge, save. The core loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from models.detector import ANOMALOUS, REASONS, STATUSES, Detector
from service import history, state
from service.errors import StoreUnavailable
from service.metrics import Metrics
from service.schemas import Reading, Result, format_time, rejected
from service.store import StateStore, Write

log = structlog.get_logger(__name__)

Records = NDArray[Any]


@dataclass
class Lane:
    """One stream's readings within a batch, in order, and its state before them.

    Attributes:
        stream: its name.
        places: where its readings stand in the batch.
        fence: what Redis held when the state was loaded.
        record: (1,) the state before, changed to the state after.
        recovered: the history to be written anew because the state had to be rebuilt, else None.
    """

    stream: str
    places: list[int]
    fence: bytes
    record: Records
    recovered: history.Entries | None = None


@dataclass(frozen=True)
class Repeat:
    """A reading sent again: which one it repeats, and what the record remembers of its answer."""

    n: int
    answer: Result


@dataclass
class Applied:
    """What a batch came to, before it is saved.

    Attributes:
        results: place in the batch to result, for readings that were applied, or late, or in conflict.
        replays: place in the batch to the applied reading that it repeats.
        writes: what to save, one for each stream that changed.
        entries: stream to its new history entries.
        opened, closed: streams whose incident is open after an anomalous reading; streams whose incident ended.
    """

    results: dict[int, Result] = field(default_factory=dict)
    replays: dict[int, Repeat] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    entries: dict[str, list[history.Entries]] = field(default_factory=dict)
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
        self._slots = history_readings
        self._attempts = save_attempts
        self._record = state.state_dtype(detector.state_dtype)
        self._entry = history.entry_dtype(len(detector.channels))
        self._seed = history.channels_seed(detector.channels)

    async def score_batch(self, batch: Sequence[Reading]) -> list[Result]:
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
                applied = await asyncio.to_thread(self._apply, batch, lanes, int(time.time() * 1000))
            with self._metrics.stage("save"):
                saved = await self._store.save(applied.writes) if applied.writes else []
            lost = {write.stream for write, ok in zip(applied.writes, saved, strict=True) if not ok}
            await self._replay(applied, lost)
            for place, result in applied.results.items():
                results[place] = result if batch[place].stream not in lost else None
            await self._mark_open(applied.opened - lost, applied.closed - lost)
            self._count(applied, lost)
            waiting = [place for lane in lanes if lane.stream in lost for place in lane.places]
            if not waiting:
                return [result for result in results if result is not None]
        raise StoreUnavailable(f"other processes kept writing {len(lost)} of the streams; send the readings again")

    async def describe(self, stream: str) -> dict[str, Any] | None:
        """What is known of a stream, or None if no reading of it was ever applied."""
        packed = (await self._store.load([stream]))[0]
        if packed is None or state.flaw(packed, self._record, self._detector.digest, self._slots):
            lane = (await self._recover([(stream, [], packed)]))[0]
        else:
            lane = Lane(stream, [], b"", state.unpack([packed], self._record))
        record = lane.record[0]
        readings = int(record["readings"])
        if readings == 0:
            return None
        return {
            "stream": stream,
            "readings": readings,
            "last_timestamp": format_time(int(record["detector"]["last_ms"])),
            "last_seq": None if record["last_seq"] < 0 else int(record["last_seq"]),
            "status": STATUSES[record["status"][(readings - 1) % state.RESULTS] & state.STATUS_BITS],
            "score": float(record["score"][(readings - 1) % state.RESULTS]),
            "model": self._detector.name,
            "tag": bytes(record["tag"]).hex(),
        }

    async def recent(self, stream: str) -> list[dict[str, Any]]:
        """The stream's last readings, oldest first, each with its values and its answer."""
        ring = (await self._store.load_histories([stream]))[0]
        entries = history.unpack_entries(ring, self._entry, self._seed)
        answers = self._answers([stream] * len(entries), entries, replayed=True)
        return [
            {
                "n": n,
                "values": {
                    c: None if value != value else value
                    for c, value in zip(self._detector.channels, values, strict=True)
                },
                "result": answer,
            }
            for n, values, answer in zip(
                entries["n"].tolist(), _significant(entries["values"]).tolist(), answers, strict=True
            )
        ]

    async def _load(self, batch: Sequence[Reading], places: Iterable[int]) -> list[Lane]:
        """Group readings by stream, in each stream's order, and load or recover the streams' states."""
        by_stream: dict[str, list[int]] = {}
        for place in places:
            by_stream.setdefault(batch[place].stream, []).append(place)
        streams = list(by_stream)
        with self._metrics.stage("load"):
            packed = await self._store.load(streams)
        flaws = [
            "missing" if p is None else state.flaw(p, self._record, self._detector.digest, self._slots) for p in packed
        ]
        intact = [p for p, bad in zip(packed, flaws, strict=True) if p is not None and bad is None]
        records = iter(state.unpack(intact, self._record).reshape(-1, 1)) if intact else iter(())
        broken = [(s, by_stream[s], p) for s, p, bad in zip(streams, packed, flaws, strict=True) if bad is not None]
        recovered = iter(await self._recover(broken) if broken else [])
        lanes = [
            next(recovered) if bad else Lane(stream, by_stream[stream], (p or b"")[state.FENCE], next(records))
            for stream, p, bad in zip(streams, packed, flaws, strict=True)
        ]
        for lane in lanes:
            lane.places.sort(key=lambda place: _order(batch[place]))
        return lanes

    async def _recover(self, broken: Sequence[tuple[str, list[int], bytes | None]]) -> list[Lane]:
        """Give streams whose record is absent or unusable a state: rebuilt from history, or a fresh one."""
        rings = await self._store.load_histories([stream for stream, _, _ in broken])
        return await asyncio.to_thread(self._rebuild_all, broken, rings)

    def _rebuild_all(self, broken: Sequence[tuple[str, list[int], bytes | None]], rings: Sequence[bytes]) -> list[Lane]:
        lanes = []
        for (stream, places, packed), ring in zip(broken, rings, strict=True):
            entries = history.unpack_entries(ring, self._entry, self._seed)[-self._slots :]
            flaw = packed and state.flaw(packed, self._record, self._detector.digest, self._slots)
            if flaw == "history" and packed is not None:
                record = state.unpack([packed], self._record)
                record["history"] = self._slots
            else:
                record = self._rebuild(entries)
            if flaw or len(entries):
                cause = flaw or "missing"
                self._metrics.rebuilt(cause)
                log.warning("state rebuilt from history", stream=stream, cause=cause, readings=len(entries))
            lanes.append(Lane(stream, places, (packed or b"")[state.FENCE], record, entries))
        return lanes

    def _rebuild(self, entries: history.Entries) -> Records:
        """(1,) the state after the readings of a history, stepped from nothing by this model."""
        detector = self._detector
        states = detector.initial(1)
        for at in range(len(entries)):
            states = detector.step(entries["values"][at : at + 1], entries["timestamp_ms"][at : at + 1], states).states
        record = state.fresh(self._record, states, detector.digest, self._slots)
        if len(entries):
            record["readings"] = entries["n"][-1] + 1
            record["tag"] = entries["tag"][-1]
            record["last_seq"] = entries["seq"][-1]
            for entry in entries[-state.RESULTS :]:
                _remember(record, np.zeros(1, np.intp), entry.reshape(1))
        return record

    def _apply(self, batch: Sequence[Reading], lanes: list[Lane], now_ms: int) -> Applied:
        """Run a batch through the detector, in rounds of at most one reading of each stream. Pure but for `lanes`."""
        applied = Applied()
        records = np.concatenate([lane.record for lane in lanes])
        heads = [_Head(records, row) for row in range(len(lanes))]
        was_open = self._open(records)
        pending = [iter(lane.places) for lane in lanes]
        active = list(range(len(lanes)))
        entries_of: list[list[history.Entries]] = [[] for _ in lanes]
        while active:
            rows, places, moments = [], [], []
            for row in active:
                for place in pending[row]:
                    decided = heads[row].decide(batch[place], now_ms, records, row)
                    if decided is None:
                        rows.append(row)
                        places.append(place)
                        moments.append(heads[row].last_ms)
                        break
                    if isinstance(decided, Repeat):
                        applied.replays[place] = decided
                    else:
                        applied.results[place] = decided
            if rows:
                entries = self._round(batch, records, heads, rows, places, moments)
                answers = self._answers([lanes[row].stream for row in rows], entries, replayed=False)
                applied.results.update(zip(places, answers, strict=True))
                for at, row in enumerate(rows):
                    entries_of[row].append(entries[at : at + 1])
            active = rows
        is_open = self._open(records)
        packed = state.pack(records)
        for row, lane in enumerate(lanes):
            if not entries_of[row]:
                continue
            applied.entries[lane.stream] = entries_of[row]
            applied.writes.append(self._write(lane, packed[row], entries_of[row]))
            if is_open[row] and any(e["status"][0] & state.STATUS_BITS == ANOMALOUS for e in entries_of[row]):
                applied.opened.add(lane.stream)
            elif was_open[row] and not is_open[row]:
                applied.closed.add(lane.stream)
        return applied

    def _round(
        self,
        batch: Sequence[Reading],
        records: Records,
        heads: list[_Head],
        rows: list[int],
        places: list[int],
        moments: list[int],
    ) -> history.Entries:
        """Step one reading of each of several streams; write states and results into `records`."""
        values = np.stack([batch[place].values for place in places])  # (B, C)
        timestamps_ms = np.array(moments, np.int64)
        step = self._detector.step(values, timestamps_ms, records["detector"][rows])
        entries = np.zeros(len(rows), self._entry)
        entries["n"] = [heads[row].readings for row in rows]
        entries["timestamp_ms"] = timestamps_ms
        entries["seq"] = [batch[place].seq for place in places]
        entries["model"] = np.void(self._detector.digest)
        entries["score"] = step.score
        entries["status"] = step.status | np.where(step.alert, state.ALERT, 0).astype(np.uint8)
        entries["reason"] = step.reason
        entries["values"] = values
        entries["expected"] = step.expected
        entries["attribution"] = step.attribution
        for at, row in enumerate(rows):
            heads[row].advance(values[at].tobytes())
        entries["tag"] = np.array([heads[row].tag for row in rows], "V16")
        at_rows = np.array(rows)
        records["detector"][at_rows] = step.states
        records["readings"][at_rows] = entries["n"] + 1
        records["tag"][at_rows] = entries["tag"]
        records["last_seq"][at_rows] = [heads[row].last_seq for row in rows]
        _remember(records, at_rows, entries)
        return entries

    def _write(self, lane: Lane, packed: bytes, entries: list[history.Entries]) -> Write:
        kept = [] if lane.recovered is None else [lane.recovered]
        new = np.concatenate([*kept, *entries])[-self._slots :]
        size = self._entry.itemsize
        offsets = (new["n"].astype(np.int64) % self._slots * size).tolist()
        slots = list(zip(offsets, history.pack_entries(new, self._seed), strict=True))
        return Write(lane.stream, lane.fence, packed, lane.recovered is not None, slots)

    def _answers(self, streams: Sequence[str], entries: history.Entries, replayed: bool) -> list[Result]:
        """The results of applied readings, from their entries in the history."""
        channels = self._detector.channels
        statuses = (entries["status"] & state.STATUS_BITS).tolist()
        columns = zip(
            streams,
            entries["timestamp_ms"].tolist(),
            entries["seq"].tolist(),
            statuses,
            entries["score"].tolist(),
            _significant(entries["expected"]).tolist(),
            _significant(entries["attribution"]).tolist(),
            entries["reason"].tolist(),
            entries["model"],
            strict=True,
        )
        return [
            Result(
                stream=stream,
                timestamp=format_time(timestamp_ms),
                seq=None if seq < 0 else seq,
                status=STATUSES[status],
                score=score,
                expected=dict(zip(channels, expected, strict=True)),
                attribution=dict(zip(channels, attribution, strict=True)),
                reason=REASONS[reason] if status == ANOMALOUS else None,
                model=bytes(model).hex(),
                replayed=replayed,
            )
            for stream, timestamp_ms, seq, status, score, expected, attribution, reason, model in columns
        ]

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
        for stream, entries in applied.entries.items():
            if stream not in lost:
                for entry in entries:
                    alert = bool(entry["status"][0] & state.ALERT)
                    self._metrics.scored(float(entry["score"][0]), REASONS[entry["reason"][0]] if alert else None)
                    if alert:
                        log.info("anomaly opened", stream=stream, score=float(entry["score"][0]))

    def _open(self, records: Records) -> NDArray[np.bool_]:
        return self._detector.is_open(records["detector"])


class _Head:
    """The end of a stream as plain Python values: what decides whether a reading is applied."""

    def __init__(self, records: Records, row: int) -> None:
        record = records[row]
        self.readings = int(record["readings"])
        self.last_seq = int(record["last_seq"])
        self.last_ms = int(record["detector"]["last_ms"])
        self.tag = bytes(record["tag"])

    def decide(self, reading: Reading, now_ms: int, records: Records, row: int) -> Result | Repeat | None:
        """None: apply it; `last_ms` and `last_seq` are already moved to it. Else what it repeats, or its result."""
        if reading.seq < 0 and self.last_seq >= 0:
            return rejected(
                reading.stream,
                None,
                None,
                f"seq is absent; this stream numbers its readings, the last was {self.last_seq}",
            )
        timestamp_ms = reading.timestamp_ms
        if timestamp_ms is None:
            timestamp_ms = now_ms if reading.seq >= 0 else max(now_ms, self.last_ms + 1)
        new = reading.seq > self.last_seq if reading.seq >= 0 else self.readings == 0 or timestamp_ms > self.last_ms
        if new:
            self.last_seq, self.last_ms = reading.seq, timestamp_ms
            return None
        return self._seen(reading, timestamp_ms, records, row)

    def _seen(self, reading: Reading, timestamp_ms: int, records: Records, row: int) -> Result | Repeat:
        numbered = reading.seq >= 0
        record = records[row]
        same_kind = (record["status"] & state.SEQ_KIND > 0) == numbered
        found = np.flatnonzero(same_kind & (record["identity"] == (reading.seq if numbered else timestamp_ms)))
        answer = Result(reading.stream, format_time(timestamp_ms), reading.seq if numbered else None, "late")
        if not len(found):
            last = f"seq {self.last_seq}" if numbered else format_time(self.last_ms)
            answer.error = f"older than what the stream has seen; its last reading is {last}"
            return answer
        slot = int(found[0])
        if record["digest"][slot] != state.values_digest(reading.values.tobytes()):
            answer.status = "conflict"
            answer.error = "a reading with this identity and other values was applied before"
            return answer
        newest = self.readings - 1
        answer.status = STATUSES[record["status"][slot] & state.STATUS_BITS]
        answer.score = float(record["score"][slot])
        answer.replayed = True
        return Repeat(newest - (newest - slot) % state.RESULTS, answer)

    def advance(self, values: bytes) -> None:
        """Chain one applied reading."""
        self.tag = state.chain(self.tag, self.last_seq, self.last_ms, values)
        self.readings += 1


def _order(reading: Reading) -> tuple[int, int]:
    """A stream's readings within a batch: by seq, or else by timestamp; those without either last, as they came."""
    if reading.seq >= 0:
        return 0, reading.seq
    return (1, reading.timestamp_ms) if reading.timestamp_ms is not None else (2, 0)


def _remember(records: Records, rows: NDArray[np.intp], entries: history.Entries) -> None:
    """Write the results of one reading of each of several streams into the records' rings."""
    slots = (entries["n"] % state.RESULTS).astype(np.intp)
    numbered = entries["seq"] >= 0
    records["identity"][rows, slots] = np.where(numbered, entries["seq"], entries["timestamp_ms"])
    records["digest"][rows, slots] = [state.values_digest(values.tobytes()) for values in entries["values"]]
    records["score"][rows, slots] = entries["score"]
    records["status"][rows, slots] = entries["status"] | np.where(numbered, state.SEQ_KIND, 0).astype(np.uint8)


def _significant(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Float32 to the seven digits it means: 2.4778827, not 2.4778826236724854."""
    exact = values.astype(np.float64)
    magnitude = np.floor(np.log10(np.maximum(np.abs(np.where(np.isfinite(exact), exact, 1.0)), 1e-30)))
    shift = 10.0 ** np.abs(6 - magnitude)  # a power of ten is exact, its inverse is not
    return np.asarray(np.where(magnitude <= 6, np.round(exact * shift) / shift, np.round(exact / shift) * shift))
