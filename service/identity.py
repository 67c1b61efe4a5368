"""What a reading is to its stream: new, a repeat, late, or in conflict with one applied before.

A reading's identity is its `seq`, or else its timestamp. Readings are applied in its order; the record's ring of the
last results answers for those that were applied already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.detector import STATUSES
from service import state
from service.schemas import NO_SEQ, NO_TIME, Readings, Result, format_time, rejected

Records = NDArray[Any]


@dataclass(frozen=True)
class Repeat:
    """A reading sent again: which one it repeats, and what the record remembers of its answer."""

    n: int
    answer: Result


class Heads:
    """The ends of B streams as plain Python values: what decides whether a reading is applied."""

    def __init__(self, records: Records, streams: list[str]) -> None:
        self.readings: list[int] = records["readings"].tolist()
        self.last_seq: list[int] = records["last_seq"].tolist()
        self.last_ms: list[int] = records["detector"]["last_ms"].tolist()
        self._tags: list[bytes] = records["tag"].tolist()
        self._records = records
        self._streams = streams

    def decide(self, row: int, batch: Readings, place: int, now_ms: int) -> Result | Repeat | None:
        """None: apply it; the head is already moved to it. Else what it repeats, or its result."""
        seq, moment = batch.seqs[place], batch.timestamps_ms[place]
        if seq != NO_SEQ:
            if moment == NO_TIME:
                moment = now_ms
            new = seq > self.last_seq[row]
        elif self.last_seq[row] != NO_SEQ:
            last = self.last_seq[row]
            error = f"seq is absent; this stream numbers its readings, the last was {last}"
            return rejected(self._streams[row], None, None, error)
        else:
            if moment == NO_TIME:
                moment = max(now_ms, self.last_ms[row] + 1)
            new = moment > self.last_ms[row] or not self.readings[row]
        if new:
            self.last_seq[row], self.last_ms[row] = seq, moment
            return None
        return self._seen(row, seq, moment, batch.values[place])

    def advance(self, rows: list[int], payloads: list[bytes]) -> list[bytes]:
        """Chain one applied reading of each of several streams; returns the tags after them."""
        tags = [state.chain(self._tags[row], payload) for row, payload in zip(rows, payloads, strict=True)]
        for row, tag in zip(rows, tags, strict=True):
            self._tags[row] = tag
            self.readings[row] += 1
        return tags

    def _seen(self, row: int, seq: int, moment: int, values: NDArray[np.float32]) -> Result | Repeat:
        numbered = seq != NO_SEQ
        record = self._records[row]
        same_kind = (record["status"] & state.SEQ_KIND > 0) == numbered
        found = np.flatnonzero(same_kind & (record["identity"] == (seq if numbered else moment)))
        answer = Result(self._streams[row], format_time(moment), seq if numbered else None, "late")
        if not len(found):
            last = f"seq {self.last_seq[row]}" if numbered else format_time(self.last_ms[row])
            answer.error = f"older than what the stream has seen; its last reading is {last}"
            return answer
        slot = int(found[0])
        (payload,) = state.payloads([seq], [moment], values[None])
        if record["digest"][slot] != state.values_digest(payload):
            answer.status = "conflict"
            answer.error = "a reading with this identity and other values was applied before"
            return answer
        newest = self.readings[row] - 1
        answer.status = STATUSES[record["status"][slot] & state.STATUS_BITS]
        answer.score = float(record["score"][slot])
        answer.replayed = True
        return Repeat(newest - (newest - slot) % state.RESULTS, answer)


def order(seq: int, timestamp_ms: int) -> tuple[int, int]:
    """A stream's readings within a batch: by seq, or else by timestamp; those without either last, as they came."""
    if seq != NO_SEQ:
        return 0, seq
    return (1, timestamp_ms) if timestamp_ms != NO_TIME else (2, 0)
