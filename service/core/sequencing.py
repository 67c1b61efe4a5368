"""What a reading is to its stream: new, a repeat, late, or in conflict with one applied before.

A reading's identity is its `seq`, or else its timestamp and the channels it has. Readings are applied in its order, in
rounds of at most one reading of each stream; the history of the stream answers for those that were applied already.

A sender may begin to count anew, after a reboot say: a `seq` that goes back while the sender's time goes on begins a
session of the stream, in which `seq` orders the readings from there on. What belongs to the session before is told by
its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gatewatch.service.core.history import Entries, same_values
from gatewatch.service.core.layout import Layout
from gatewatch.service.core.outcomes import Refused, format_time, rejected
from gatewatch.service.core.readings import NO_SEQ, NO_TIME, Batch
from gatewatch.service.core.records import Records
from gatewatch.service.core.stream_key import StreamKey

Places = NDArray[np.intp]

_CALL = "say so: POST /v1/streams/{stream}/reset?what=sequence"
HOLE: Final = 16
"""Readings; who is missed between two that are no further away was overtaken: its sender has not begun anew."""


@dataclass(frozen=True)
class Round:
    """At most one reading of each stream.

    Attributes:
        rows: (R,) which streams, ascending.
        places: (R,) where their readings stand in the batch.
    """

    rows: Places
    places: Places


def rounds_of(batch: Batch, places: Sequence[int]) -> tuple[list[StreamKey], list[Round]]:
    """The streams of a batch, each once, and their readings in rounds, each stream's in its order.

    Args:
        places: the readings that count.
    """
    if len(places) == len(batch) == len(set(batch.streams)):
        every = np.arange(len(batch))
        return batch.streams, [Round(every, every)]
    by_stream: dict[StreamKey, list[int]] = {}
    for place in places:
        by_stream.setdefault(batch.streams[place], []).append(place)
    for queue in by_stream.values():
        if len(queue) > 1:
            queue.sort(key=lambda place: order_of(int(batch.seqs[place]), int(batch.timestamps_ms[place])))
    return list(by_stream), _in_rounds(list(by_stream.values()))


def without(rounds: Sequence[Round], rows: set[int]) -> tuple[list[Round], list[int]]:
    """Rounds without the readings of some streams, and the places of those."""
    kept, places = [], list[int]()
    for round_ in rounds:
        out = np.isin(round_.rows, list(rows))
        places += round_.places[out].tolist()
        kept.append(Round(round_.rows[~out], round_.places[~out]))
    return kept, places


def _in_rounds(queues: Sequence[Sequence[int]]) -> list[Round]:
    rounds = []
    for depth in range(max(map(len, queues))):
        rows = [row for row, queue in enumerate(queues) if len(queue) > depth]
        rounds.append(Round(np.array(rows), np.array([queues[row][depth] for row in rows])))
    return rounds


def order_of(seq: int, timestamp_ms: int) -> tuple[int, int]:
    """By seq, or else by timestamp; readings without either last, as they came."""
    if seq != NO_SEQ:
        return 0, seq
    return (1, timestamp_ms) if timestamp_ms != NO_TIME else (2, 0)


def joined(batch: Batch, rounds: list[Round], heads: Records) -> tuple[Batch, list[Round], dict[int, int]]:
    """Join the readings of one time with channels apart, of streams that ask for it, into one reading each.

    One that a stream has seen with its last time stays for itself: others may bring what that reading had not.

    Args:
        heads: (B,) the records before them.

    Returns:
        The batch with the joined values, its rounds, and the place of each reading that was joined into another to the
        place of that one.
    """
    queues: list[list[int]] = [[] for _ in heads]
    for round_ in rounds:
        for row, place in zip(round_.rows.tolist(), round_.places.tolist(), strict=True):
            queues[row].append(place)
    values, into = batch.values.copy(), dict[int, int]()
    for row in np.flatnonzero(heads["join"]).tolist():
        first: list[int] = []
        last_ms = int(heads["last_ms"][row]) if heads["readings"][row] else NO_TIME
        there = heads["present"][row]
        for place in queues[row]:
            before = first[-1] if first else place
            same = batch.timestamps_ms[place] == batch.timestamps_ms[before] != NO_TIME
            numbered = batch.seqs[place] != NO_SEQ or batch.seqs[before] != NO_SEQ
            here = np.isfinite(values[place])
            both = here & np.isfinite(values[before])
            if batch.timestamps_ms[place] == last_ms:
                both |= (here | np.isfinite(values[before])) & there
            if first and same and not numbered and not both.any():
                values[before, here] = values[place, here]
                into[place] = before
            else:
                first.append(place)
        queues[row] = first
    return replace(batch, values=values), _in_rounds(queues), into


@dataclass(frozen=True)
class Decision:
    """What the readings of a round are to their streams.

    Attributes:
        times_ms: (R,) their times; that of arrival where the sender gave none.
        new: (R,) whether to apply them.
        refused: index in the round to the reason of a reading that cannot be applied.
    """

    times_ms: NDArray[np.int64]
    new: NDArray[np.bool_]
    refused: dict[int, Refused]


def decide(batch: Batch, places: Places, heads: Records, now_ms: int) -> Decision:
    """Compare one reading of each of R streams with the (R,) records before them."""
    seqs, times_ms = batch.seqs[places], batch.timestamps_ms[places]
    last_seq, last_ms = heads["last_seq"], heads["last_ms"]
    numbered, untimed = seqs != NO_SEQ, times_ms == NO_TIME
    if np.count_nonzero(untimed):
        arrival = np.where(numbered, now_ms, np.maximum(last_ms + 1, now_ms))
        times_ms = np.where(untimed, arrival, times_ms)
    new = seqs > last_seq
    if np.count_nonzero(heads["session"]):
        new &= (times_ms >= heads["session_ms"]) | untimed  # else it was counted before the sender began anew
    if np.count_nonzero(numbered) < len(new):
        later = (times_ms > last_ms) | (heads["readings"] == 0)
        same = times_ms == last_ms
        if np.count_nonzero(same & ~later):
            observed = np.isfinite(batch.values[places])
            later |= same & observed.any(axis=1) & ~(observed & heads["present"]).any(axis=1)
        later &= last_seq == NO_SEQ  # else it cannot be new; perhaps it was sent before the numbers began
        new = np.where(numbered, new, later)
    refused: dict[int, Refused] = {}
    if np.count_nonzero(heads["hold"]):
        gap = new & (heads["hold"] > 0) & numbered & (last_seq != NO_SEQ) & (seqs != last_seq + 1)
        for at in np.flatnonzero(gap).tolist():
            stream, seq, expected = batch.streams[places[at]], int(seqs[at]), int(last_seq[at]) + 1
            refused[at] = across_gap(stream, int(times_ms[at]), seq, expected)
        new &= ~gap
    return Decision(times_ms, new, refused)


def across_gap(stream: StreamKey, time_ms: int, seq: int, expected: int) -> Refused:
    """What a reading gets that would leave a gap in a stream that waits at gaps; `expected` has to come before it."""
    error = f"seq is {seq}, but this stream waits at gaps (on_gap is hold); expected {expected}"
    return rejected(stream.name, format_time(time_ms), seq, error)


def is_asked(head: Records) -> bool:
    """Whether somebody said that a stream's sender counts anew, and it has not begun to."""
    return bool(head["session"] > 0 and head["last_seq"] == NO_SEQ and head["session_ms"] == head["newest_ms"] + 1)


def counts_anew(batch: Batch, place: int, known: Entries, layout: Layout, head: Records) -> bool:
    """Whether a reading that is not new shows that its sender began to count anew: its count went back, its time on.

    A reading that the history has with the same values is a repeat, whatever its time. Where somebody said that the
    sender counts anew, its clock may begin anew as well.
    """
    seq, moment = int(batch.seqs[place]), int(batch.timestamps_ms[place])
    if seq == NO_SEQ or moment == NO_TIME:
        return False
    same = len(known) > 0 and bool(same_values(known, layout, batch.values[place])[0])
    if is_asked(head):
        return not (same and known["timestamp_ms"][0] == moment)
    return bool(not same and seq <= head["last_seq"] and moment > head["newest_ms"])


def fills_a_hole(seq: int, kept: Entries, head: Records) -> bool:
    """Whether a `seq` that a history has not lies close between two that it has: it is late, though its time is not.

    Args:
        kept: the history.
    """
    away = kept["seq"][kept["session"] == head["session"]] - seq
    near = away[np.abs(away) <= HOLE]
    return bool((near < 0).any() and (near > 0).any() and not (near == 0).any())


def unanswered(batch: Batch, place: int, known: Entries, layout: Layout, head: Records) -> Refused | None:
    """Why a reading that is not new gets no first answer again: it is late, or in conflict; None if it does.

    Args:
        known: (0 or 1,) the entry of its stream's history with its identity, in the stream's channels.
        layout: of the stream.
        head: the stream's record.
    """
    stream, seq, moment = batch.streams[place], int(batch.seqs[place]), int(batch.timestamps_ms[place])
    shown_seq, time = (None if seq == NO_SEQ else seq), (None if moment == NO_TIME else format_time(moment))
    if len(known) and seq != NO_SEQ and NO_TIME != moment < head["session_ms"] and known["session"] == head["session"]:
        known = known[:0]  # it was counted in an earlier session
    if not len(known) and seq == NO_SEQ and head["last_seq"] != NO_SEQ:
        error = f"seq is absent; this stream numbers its readings, the last was {head['last_seq']}"
        error += f"; if it does no more, {_CALL}"
        return rejected(stream.name, time, None, error)
    if not len(known):
        return Refused(stream.name, time, shown_seq, "late", error=_late(seq, moment, head))
    if seq == NO_SEQ and _repeats_part(known, layout, batch.values[place]):
        return None
    if not same_values(known, layout, batch.values[place])[0]:
        error = "a reading with this identity and other values was applied before"
        if seq != NO_SEQ and moment == NO_TIME:
            error += f"; if the sender counts anew, {_CALL}"
        return Refused(stream.name, time, shown_seq, "conflict", error)
    return None


def _repeats_part(known: Entries, layout: Layout, values: NDArray[np.float64]) -> bool:
    """Whether all that a reading has stands in an entry: it was joined with others of its time."""
    there = np.isfinite(values)
    kept = known["values"][0, layout.columns]
    return bool(there.any() and (kept[there] == values[there]).all())


def _late(seq: int, moment: int, head: Records) -> str:
    if seq == NO_SEQ:
        return f"older than what the stream has seen; its last reading is {format_time(int(head['last_ms']))}"
    if seq > head["last_seq"]:
        began = format_time(int(head["session_ms"]))
        return f"older than what the stream has seen; its sender began to count anew at {began}"
    error = f"older than what the stream has seen; its last reading is seq {head['last_seq']}"
    if moment == NO_TIME:
        error += f"; if the sender counts anew, {_CALL}"
    return error
