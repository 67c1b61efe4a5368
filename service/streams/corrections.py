"""Corrections: a late reading takes its place, and the readings after it are scored anew.

A stream with a reorder window keeps two earlier records beside its record, in turn: when a reading comes more than a
window after the newest of them, the record before that reading replaces the older one. So one of the two is always
older than any reading that may still come late, and the history since then, with the late reading in its place, is
replayed from there: state, tag and scores are those of a stream that had seen everything in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.detector import JOIN_READINGS
from service.messages.schemas import NO_SEQ
from service.records import state
from service.records.history import Entries
from service.records.layout import Layout
from service.records.state import Records
from service.streams.identity import Places
from service.streams.stepper import Stepper

_OF_STREAM = ("readings", "tag", "last_seq", "last_ms", "newest_ms", "session", "session_ms", "score", "status")
_MOVED = (*_OF_STREAM, "present", "detector")
"""What of a record goes back to an earlier one and is then moved forward anew."""


def due(heads: Records, times_ms: NDArray[np.int64]) -> Places:
    """Which of R records are to be kept as earlier ones before their next readings."""
    window = heads["reorder_ms"]
    if not window.any():
        return np.empty(0, np.intp)
    old = (heads["earlier"] == 0) | (times_ms - heads["earlier_ms"] > window)
    return np.flatnonzero((window > 0) & old)


def keep(heads: Records, rows: Places, layouts: Sequence[Layout], seeds: Sequence[int]) -> list[tuple[int, bytes]]:
    """Note in the records that they were kept; returns the slot, 0 or 1, and the bytes of each."""
    kept = state.pack(heads[rows], layouts, seeds)
    heads["earlier"][rows] += 1
    heads["earlier_ms"][rows] = heads["last_ms"][rows]
    return list(zip((heads["earlier"][rows] % 2).tolist(), kept, strict=True))


def within_window(record: Records, time_ms: int) -> bool:
    """Whether a late reading of a stream may still take its place."""
    window = int(record["reorder_ms"])
    return window > 0 and time_ms >= int(record["last_ms"]) - window


@dataclass(frozen=True)
class Correction:
    """A late reading in its place, as it is to be saved.

    Attributes:
        record: (1,) the stream's record: what it would be had the reading come in time.
        entries: the late reading's and those of all readings after it, with flag CORRECTED.
        earlier: slot to an earlier record that has now seen the late reading too.
    """

    record: Records
    entries: Entries
    earlier: dict[int, bytes]


@dataclass(frozen=True)
class Gap:
    """Why a late reading cannot take its place in a stream that waits at gaps: the reading `expected` is not there."""

    expected: int


def insert(
    stepper: Stepper,
    record: Records,
    layout: Layout,
    seed: int,
    earlier: dict[int, Records],
    entries: Entries,
    late: Entries,
) -> Correction | Gap | None:
    """Apply a late reading in its place.

    Args:
        stepper: steps the model.
        record: (1,) the stream's record.
        layout: the stream's.
        seed: where its checksum starts.
        earlier: slot to (1,) sound earlier record of the stream.
        entries: the stream's history, in the model's channels.
        late: (1,) the reading, as an entry with seq, time and values.

    Returns:
        None if no earlier record is early enough, or the readings since then are no longer all in the history. A Gap if
        the stream waits at gaps and the reading is not the next one behind the reading before it or, as the first of
        all, the last one ahead of the reading after it.
    """
    numbered = late["seq"][0] != NO_SEQ
    order, mine = ("seq", late["seq"][0]) if numbered else ("timestamp_ms", late["timestamp_ms"][0])
    newest_first = sorted(earlier.items(), key=lambda kept: int(kept[1]["readings"][0]), reverse=True)
    if len(entries) and entries["n"][0] == 0:
        newest_first.append((-1, stepper.fresh(1)))  # all readings are at hand: earlier records may have been lost
    outdated: list[tuple[int, Records]] = []
    for slot, start in newest_first:
        first = int(start["readings"][0])
        since = entries[entries["n"] >= first]
        if not _leads_to(stepper, start, since, record):
            continue
        before = start["last_seq"][0] if numbered else start["last_ms"][0]
        if first and before >= mine:
            outdated.append((slot, start))
            continue
        place = int(np.searchsorted(since[order], mine))
        if numbered and record["hold"][0]:
            ahead = since["seq"][place - 1] if place else start["last_seq"][0]
            expected = ahead + 1 if ahead != NO_SEQ else since["seq"][place] - 1
            if mine != expected:
                return Gap(int(expected))
        moved = record.copy()
        for name in _MOVED:
            moved[name] = start[name]
        late["session"] = record["session"]
        readings = np.concatenate([since[:place], late, since[place:]])
        done, rescored, kept = 0, [], {}
        for old_slot, old in reversed(outdated):
            upto = int(old["readings"][0]) - first + 1
            rescored.append(stepper.replay(moved, readings[done:upto]))
            (kept[old_slot],) = state.pack(moved, [layout], [seed])
            done = upto
        rescored.append(stepper.replay(moved, readings[done:]))
        corrected = np.concatenate(rescored)[place:]
        corrected["status"] |= state.CORRECTED
        moved["status"] |= state.CORRECTED
        return Correction(moved, corrected, kept)
    return None


def begun(before: Entries, corrected: Entries) -> Entries:
    """The readings of a correction with which an incident begins that has raised no alert yet.

    An incident whose beginning only moved, because of the late reading, has raised its alert.

    Args:
        before: the stream's history before the correction.
        corrected: the late reading's entry and those of all readings after it.
    """
    before = before[before["n"] >= corrected["n"][0]]
    alerts_before = np.flatnonzero(before["status"] & state.ALERT) + 1  # each reading is one place later now
    alerts = np.flatnonzero(corrected["status"] & state.ALERT)
    gone, new = np.setdiff1d(alerts_before, alerts), np.setdiff1d(alerts, alerts_before)
    moved = np.abs(new[:, None] - gone).min(axis=1, initial=JOIN_READINGS) < JOIN_READINGS
    opened: Entries = corrected[new[~moved]]
    return opened


def _leads_to(stepper: Stepper, start: Records, since: Entries, record: Records) -> bool:
    """Whether `since` are all readings between an earlier record and the present one."""
    if len(since) != int(record["readings"][0]) - int(start["readings"][0]):
        return False
    if not len(since):
        return bool(start["tag"][0] == record["tag"][0])
    first = since[:1]
    if first["single"][0]:
        return bool(start["readings"][0] == first["n"][0])  # chained by a version before format 4
    tags = stepper.chain.tags(start["tag"], first["seq"], first["timestamp_ms"], first["values"])
    return bool(tags[0] == first["tag"][0])
