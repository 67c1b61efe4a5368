"""Stepper: moves stream records forward by one reading each, and rebuilds them from history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.detector import Detector
from service.messages.schemas import NO_SEQ
from service.records import history, state
from service.records.history import Entries
from service.records.state import Records


class Stepper:
    """One detector, and the layouts that records and history entries have with it."""

    def __init__(self, detector: Detector, history_readings: int) -> None:
        self.detector = detector
        self.slots = history_readings
        self.record = state.state_dtype(detector.state_dtype)
        self.entry = history.entry_dtype(len(detector.channels), detector.forecasts)
        self._model = np.void(detector.digest)
        self._seed = history.channels_seed(detector.channels)

    def fresh(self, streams: int) -> Records:
        """(B,) records of streams that have not seen a reading."""
        return state.fresh(self.record, self.detector.initial(streams), self.detector.digest, self.slots)

    def step(
        self, heads: Records, seqs: NDArray[np.int64], times_ms: NDArray[np.int64], values: NDArray[np.float32]
    ) -> Entries:
        """Feed one reading of each of R streams; moves `heads` forward and returns the entries for their histories."""
        step = self.detector.advance(values, times_ms, heads["detector"])
        entries = np.empty(len(heads), self.entry)
        entries["n"] = heads["readings"]
        entries["timestamp_ms"] = times_ms
        entries["seq"] = seqs
        entries["tag"] = state.chain(heads["tag"], seqs, times_ms, values)
        entries["model"] = self._model
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

    def replay(self, records: Records, readings: Sequence[Entries]) -> list[Entries]:
        """Feed each of B streams its readings, in their order and in rounds; returns the new entries of each.

        Args:
            records: (B,) moved forward.
            readings: of each stream, any number.
        """
        lengths = np.array([len(of_stream) for of_stream in readings])
        given = np.zeros((max(lengths, default=0), len(lengths)), self.entry)
        for row, of_stream in enumerate(readings):
            given[: len(of_stream), row] = of_stream
        entries = np.empty_like(given)
        for at in range(len(given)):
            rows = np.flatnonzero(lengths > at)
            heads, one = records[rows], given[at, rows]
            entries[at, rows] = self.step(heads, one["seq"], one["timestamp_ms"], one["values"])
            records[rows] = heads
        return [entries[:length, row] for row, length in enumerate(lengths.tolist())]

    def rebuild(self, histories: Sequence[Entries]) -> Records:
        """(B,) the records after the readings of histories, stepped from nothing by this model; n and tags go on."""
        records = self.fresh(len(histories))
        for at in range(max(map(len, histories), default=0)):
            rows = [row for row, entries in enumerate(histories) if len(entries) > at]
            readings = np.concatenate([histories[row][at : at + 1] for row in rows])
            heads = records[rows]
            self.step(heads, readings["seq"], readings["timestamp_ms"], readings["values"])
            records[rows] = heads
        for row, entries in enumerate(histories):
            if len(entries):
                records["readings"][row] = entries["n"][-1] + 1
                records["tag"][row] = entries["tag"][-1]
        return records

    def read_history(self, ring: bytes) -> Entries:
        """A stream's last readings, oldest first."""
        return history.unpack_entries(ring, self.entry, self._seed)[-self.slots :]

    def find(self, ring: bytes, seq: int, timestamp_ms: int) -> Entries:
        """(0 or 1,) the entry of a stream's history that a reading repeats."""
        return history.find(ring, self.entry, self._seed, seq, timestamp_ms)

    def find_each(self, ring: bytes, seqs: Sequence[int], times_ms: Sequence[int]) -> list[Entries]:
        """`find` for many readings: the ring is put in order once, instead of being searched for each."""
        if len(seqs) == 1:
            return [self.find(ring, seqs[0], times_ms[0]).copy()]  # the ring itself is not kept
        size = self.entry.itemsize
        entries = np.frombuffer(ring, self.entry, len(ring) // size)
        numbers, times = entries["seq"], entries["timestamp_ms"]
        by_number = np.argsort(numbers, kind="stable")
        unnumbered = np.flatnonzero(numbers == NO_SEQ)
        by_time = unnumbered[np.argsort(times[unnumbered], kind="stable")]
        found = []
        for order, column, keys in ((by_number, numbers, seqs), (by_time, times, times_ms)):
            first, last = (np.searchsorted(column[order], keys, side).tolist() for side in ("left", "right"))
            found.append([order[start:stop].tolist() for start, stop in zip(first, last, strict=True)])
        known = []
        for seq, time_ms, numbered, timed in zip(seqs, times_ms, *found, strict=True):
            slots = timed if seq == NO_SEQ else numbered
            known.append(self.find(b"".join(ring[at * size : (at + 1) * size] for at in slots), seq, time_ms))
        return known

    def slots_of(self, rows: Iterable[int], entries: Entries) -> list[tuple[int, int, bytes]]:
        """Of each entry the row of its stream, where in the ring it belongs, and its bytes."""
        offsets = entries["n"] % np.uint64(self.slots) * np.uint64(self.entry.itemsize)
        return list(zip(rows, offsets.tolist(), history.pack_entries(entries, self._seed), strict=False))

    def pieces_of(self, row: int, entries: Entries) -> list[tuple[int, int, bytes]]:
        """`slots_of` consecutive entries of one stream, joined into one piece, or two at the end of its ring."""
        last = entries[-self.slots :]
        packed = history.pack_entries(last, self._seed)
        start = int(last["n"][0]) % self.slots
        ahead = self.slots - start
        parts = [(start, packed[:ahead]), (0, packed[ahead:])]
        return [(row, slot * self.entry.itemsize, b"".join(part)) for slot, part in parts if part]
