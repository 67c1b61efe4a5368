"""Corrections: late readings take their places, and the readings after them are scored anew.

A stream with a reorder window keeps two earlier records beside its record, in turn: when a reading comes more than a
window after the newest of them, the record before that reading replaces the older one. So one of the two is always
older than any reading that may still come late, and the history since then, with the late readings in their places, is
replayed from there: state, tag and scores are those of a stream that had seen everything in order. All that wait are
put in their places together, so a hundred late readings cost one replay and not a hundred.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.incidents import JOIN_READINGS
from gatewatch.service.core import records as state
from gatewatch.service.core.chain import Chain
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout
from gatewatch.service.core.readings import NO_SEQ
from gatewatch.service.core.records import Records
from gatewatch.service.core.sequencing import Places
from gatewatch.service.incidents.rules import counts


def due(heads: Records, times_ms: NDArray[np.int64]) -> Places:
    """Which of R records are to be kept as earlier ones before their next readings."""
    window = heads["reorder_ms"]
    if not np.count_nonzero(window):
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
    return window > 0 and time_ms >= max(int(record["last_ms"]) - window, int(record["session_ms"]))


_OF_STREAM: Final = ("readings", "tag", "session", "last_seq", "last_ms", "newest_ms", "session_ms", "score", "status")
STEPPED: Final = (*_OF_STREAM, "present", "detector", "level", "step_n", "step_ms", "step", "back_n")
"""What a record owes to the readings it has seen; the rest are settings and notes."""


class Correction:
    """Late readings of one stream on the way to their places: a replay that goes on part by part.

    Attributes:
        before: (1,) the stream's record without them.
        start: (1,) the earlier record that the replay starts from.
        record: (1,) the record moved so far; in the end what it would be had they come in time.
        readings: (N,) the history since an earlier record, with the late readings in their places.
        places: (K,) where in `readings` they stand, ascending.
        entries: (N,) the new entries of those that were replayed.
        done: how many were.
        earlier: slot to an earlier record that has now seen the late readings too.
    """

    def __init__(
        self,
        chain: Chain,
        before: Records,
        start: Records,
        readings: Entries,
        places: Places,
        stops: list[tuple[int, int]],
    ) -> None:
        """`stops`: after how many readings which earlier record is to be kept anew, in this order."""
        self._chain = chain
        self.before = before
        self.start = start
        self.record = _moved(before, start)
        self.readings = readings
        self.places = places
        self.entries = np.empty_like(readings)
        self.done = 0
        self.earlier: dict[int, bytes] = {}
        self._stops = stops

    @property
    def left(self) -> int:
        """How many readings are still to be replayed."""
        return len(self.readings) - self.done

    def part(self, most: int) -> Entries:
        """The next readings to be replayed, no more than so many."""
        stop = self._stops[0][0] if self._stops else len(self.readings)
        return self.readings[self.done : min(self.done + most, stop)]

    def advance(self, record: Records, entries: Entries, layout: Layout, seed: int) -> None:
        """Note what a part came to: the record after it, and its entries."""
        self.record = record
        self.entries[self.done : self.done + len(entries)] = entries
        self.done += len(entries)
        while self._stops and self._stops[0][0] == self.done:
            _, slot = self._stops.pop(0)
            (self.earlier[slot],) = state.pack(record, [layout], [seed])

    def follow(self, record: Records, entries: Entries) -> bool:
        """Add the readings that the stream has seen meanwhile; False if the correction must begin anew.

        Args:
            record: (1,) the stream's record now.
            entries: its history now.
        """
        seen, n = self.before["readings"][0], entries["n"]
        since = entries[(n >= seen) & (n < record["readings"][0])]
        known = np.delete(self.readings, self.places)  # a person may have closed its incident
        if not np.array_equal(_closed(known[np.isin(known["n"], n)]), _closed(entries[np.isin(n, known["n"])])):
            return False
        if self.before["earlier"][0] != record["earlier"][0] or not _leads_to(self._chain, self.before, since, record):
            return False
        self.readings = np.concatenate([self.readings, since])
        self.entries = np.concatenate([self.entries, np.empty_like(since)])
        self.before, self.record = record.copy(), _moved(record, self.record)
        return True

    def finish(self) -> Entries:
        """Mark what was scored anew; returns the entries from the first late reading on, which are to be saved."""
        corrected = self.entries[self.places[0] :]
        corrected["status"] |= state.CORRECTED
        self.record["status"] |= state.CORRECTED
        return corrected

    def begun(self) -> Entries:
        """The readings with which an incident begins that has raised no alert yet.

        An incident whose beginning only moved, because of the late readings, has raised its alert.
        """
        settled = len(self.entries) - len(self.since_closed())
        alerts_before, alerts = (
            settled + np.flatnonzero(one["status"][settled:] & state.ALERT) for one in (self.readings, self.entries)
        )
        gone, new = np.setdiff1d(alerts_before, alerts), np.setdiff1d(alerts, alerts_before)
        moved = np.abs(new[:, None] - gone).min(axis=1, initial=JOIN_READINGS) < JOIN_READINGS
        opened: Entries = self.entries[new[~moved]]
        return opened

    def since_closed(self) -> Entries:
        """The entries after the last one with which a person ended an incident: what was up to then is settled."""
        closed = np.flatnonzero(self.entries["status"] & state.CLOSED)
        since: Entries = self.entries[closed[-1] + 1 :] if len(closed) else self.entries
        return since

    def counts_anew(self) -> bool:
        """Whether a reading counts by the rules of its stream that did not before, or is new and does."""
        before = {int(one["timestamp_ms"]) for one in np.delete(self.readings, self.places) if counts(one)}
        return any(int(one["timestamp_ms"]) not in before for one in self.since_closed() if counts(one))


@dataclass(frozen=True)
class Gap:
    """Why a late reading cannot take its place in a stream that waits at gaps: the reading `expected` is not there."""

    expected: int


def place(
    chain: Chain,
    fresh: Records | None,
    record: Records,
    earlier: dict[int, Records],
    entries: Entries,
    late: Entries,
    slots: int,
) -> tuple[Correction | None, list[int | Gap | None]]:
    """Find the places of late readings of one stream, one after the other, in their order.

    Args:
        chain: of the model's channels.
        fresh: (1,) a record that has seen nothing; None where its stream had fewer channels then.
        record: (1,) the stream's record.
        earlier: slot to (1,) sound earlier record of the stream.
        entries: the stream's history, in the model's channels.
        late: (K,) the readings in their order, each once, as entries with seq, time and values; none is in the history.
        slots: most readings in a history.

    Returns:
        The correction, if any reading has a place; and for each of them: which of the correction's `places` is its own;
        None if no earlier record is early enough, or the readings since then are no longer all in the history; a Gap
        if the stream waits at gaps and the reading is not the next one behind the reading before it or, as the first
        of all, the last one ahead of the reading after it.
    """
    numbered = bool(late["seq"][0] != NO_SEQ)
    order = "seq" if numbered else "timestamp_ms"
    held = numbered and bool(record["hold"][0])
    session = int(record["session"][0])
    late["session"] = session
    starts = _starts(chain, fresh, record, earlier, entries)
    found: list[int | Gap | None] = []
    base: _Start | None = None
    merged: list[int] = []
    taken: list[int] = []
    later: Counter[int] = Counter()  # slot of an earlier record to how many late readings it has to see
    inserted: Counter[int] = Counter()  # slot of an earlier record to how many late readings come after it
    for at, mine in enumerate(late[order].tolist()):
        outdated = []
        for start in starts:
            if not start.first or start.last(numbered, session) < mine:
                break
            outdated.append(start.slot)
        else:
            found.append(None)
            continue
        if len(start.since) + inserted[start.slot] > slots:
            found.append(None)
            continue
        if base is None:
            base, merged = start, start.order(order, session).tolist()
        if held:
            behind = bisect.bisect_left(merged, mine)
            ahead = merged[behind - 1] if behind else base.last(numbered, session)
            expected = ahead + 1 if ahead != NO_SEQ else merged[behind] - 1
            if mine != expected:
                found.append(Gap(expected))
                continue
            merged.insert(behind, mine)
        found.append(len(taken))
        taken.append(at)
        later.update(outdated)
        inserted[start.slot] += 1
    if base is None or not taken:
        return None, found
    chosen = late[taken]
    ahead_of = np.searchsorted(base.order(order, session), chosen[order])
    readings = np.insert(base.since, ahead_of, chosen)
    stops = [(start.first - base.first + later[start.slot], start.slot) for start in starts if later[start.slot]]
    places = ahead_of + np.arange(len(chosen))
    for at in places.tolist():  # what comes late teaches a stream that is kept nothing
        ahead = readings["status"][at - 1] if at else base.record["status"][0]
        readings["status"][at] = ahead & state.KEPT if not at or not ahead & state.ENDED else 0
    return Correction(chain, record, base.record, readings, places, sorted(stops)), found


@dataclass(frozen=True)
class _Start:
    """An earlier record from which the present one can be reached, and the readings since."""

    slot: int
    record: Records
    since: Entries

    @property
    def first(self) -> int:
        return int(self.record["readings"][0])

    def last(self, numbered: bool, session: int) -> int:
        """Where the last reading it has seen stands in the order of a session; before all of it, if of another."""
        if not numbered:
            return int(self.record["last_ms"][0])
        return int(self.record["last_seq"][0]) if self.record["session"][0] == session else NO_SEQ

    def order(self, by: str, session: int) -> NDArray[np.int64]:
        """Where the readings since stand in the order of a session; those of sessions before it come first."""
        places: NDArray[np.int64] = self.since[by]
        return np.where(self.since["session"] == session, places, NO_SEQ) if by == "seq" else places


def _starts(
    chain: Chain, fresh: Records | None, record: Records, earlier: dict[int, Records], entries: Entries
) -> list[_Start]:
    """Where a replay may start, the newest first."""
    newest_first = sorted(earlier.items(), key=lambda kept: int(kept[1]["readings"][0]), reverse=True)
    if fresh is not None and len(entries) and entries["n"][0] == 0:
        newest_first.append((-1, fresh))  # all readings are at hand: earlier records may have been lost
    starts = [_Start(slot, start, entries[entries["n"] >= start["readings"][0]]) for slot, start in newest_first]
    return [start for start in starts if _leads_to(chain, start.record, start.since, record)]


def _closed(entries: Entries) -> NDArray[np.uint64]:
    """The numbers of the readings after which a person closed an incident."""
    numbers: NDArray[np.uint64] = entries["n"][(entries["status"] & state.CLOSED) != 0]
    return numbers


def _moved(record: Records, seen: Records) -> Records:
    """(1,) a record that has seen what another one has."""
    moved = record.copy()
    for name in STEPPED:
        moved[name] = seen[name]
    return moved


def _leads_to(chain: Chain, start: Records, since: Entries, record: Records) -> bool:
    """Whether `since` are all readings between an earlier record and the present one."""
    if len(since) != int(record["readings"][0]) - int(start["readings"][0]):
        return False
    if not len(since):
        return bool(start["tag"][0] == record["tag"][0])
    first = since[:1]
    if first["single"][0]:
        return bool(start["readings"][0] == first["n"][0])  # chained by a version before format 4
    tags = chain.tags(start["tag"], first["seq"], first["timestamp_ms"], first["values"])
    return bool(tags[0] == first["tag"][0])
