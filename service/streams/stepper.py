"""Stepper: moves stream records forward by one reading each, and rebuilds them from history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.detector import Detector
from service.records import history, state
from service.records.history import Entries
from service.records.state import Records


class Stepper:
    """One detector, and the layouts that records and history entries have with it."""

    def __init__(self, detector: Detector, history_readings: int) -> None:
        self.detector = detector
        self.slots = history_readings
        self.record = state.state_dtype(detector.state_dtype)
        self.entry = history.entry_dtype(len(detector.channels))
        self._model = np.void(detector.digest)
        self._seed = history.channels_seed(detector.channels)

    def fresh(self, streams: int) -> Records:
        """(B,) records of streams that have not seen a reading."""
        return state.fresh(self.record, self.detector.initial(streams), self.detector.digest, self.slots)

    def step(
        self, heads: Records, seqs: NDArray[np.int64], times_ms: NDArray[np.int64], values: NDArray[np.float32]
    ) -> Entries:
        """Feed one reading of each of R streams; moves `heads` forward and returns the entries for their histories."""
        step = self.detector.advance(values.astype(np.float64), times_ms, heads["detector"])
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
        entries["mid"], entries["half"] = step.mid, step.half
        entries["attribution"] = step.attribution
        heads["readings"] += 1
        heads["tag"] = entries["tag"]
        heads["last_seq"] = seqs
        heads["score"] = step.score
        heads["status"] = entries["status"]
        return entries

    def replay(self, record: Records, readings: Entries) -> Entries:
        """Feed readings to one stream, (1,) `record`, in their order; returns their new entries."""
        entries = np.empty(len(readings), self.entry)
        for at in range(len(readings)):
            one = readings[at : at + 1]
            entries[at : at + 1] = self.step(record, one["seq"], one["timestamp_ms"], one["values"])
        return entries

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

    def slots_of(self, rows: Iterable[int], entries: Entries) -> list[tuple[int, int, bytes]]:
        """Of each entry the row of its stream, where in the ring it belongs, and its bytes."""
        offsets = entries["n"] % np.uint64(self.slots) * np.uint64(self.entry.itemsize)
        return list(zip(rows, offsets.tolist(), history.pack_entries(entries, self._seed), strict=False))
