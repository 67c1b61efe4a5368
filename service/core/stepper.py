"""Stepper: moves stream records forward by one reading each, and rebuilds them from history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors import budget_loop
from gatewatch.models.detectors.asked import Asked
from gatewatch.models.detectors.detector import WARMING_UP, Detector
from gatewatch.models.detectors.incidents import unlearn, with_incidents_ended
from gatewatch.service.core import history
from gatewatch.service.core import records as state
from gatewatch.service.core.chain import Chain, tags_of
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout, entry_dtype, layout_of
from gatewatch.service.core.records import Records
from gatewatch.service.errors import ModelFailed

Slots = list[tuple[int, int, bytes]]
"""Of pieces of histories the row of the stream, the offset in its ring, and the bytes."""

_NUMBER = 4
"""Where `n` stands in a slot, behind the checksum."""


class Ruling(Protocol):
    """What the rules of streams make of readings that are scored anew; see incidents/rules.py."""

    def before(self, heads: Records, readings: Entries, rows: NDArray[np.intp]) -> None:
        """Write into (R,) readings, as the history has them, whether their streams are kept from learning by now."""

    def after(self, heads: Records, entries: Entries, readings: Entries, rows: NDArray[np.intp]) -> None:
        """Write into new (R,) entries what decides about them, and what follows from that into their streams' heads."""


class Stepper:
    """One detector, and the layouts that records and history entries have with it."""

    def __init__(self, detector: Detector, history_readings: int) -> None:
        self.detector = detector
        self.slots = history_readings
        self.record = state.state_dtype(detector.state_dtype, len(detector.channels))
        self.entry = entry_dtype(len(detector.channels))
        self.usual = layout_of(detector.channels, detector.channels)
        self.chain = Chain(detector.channels)
        self._model = np.void(detector.digest)

    def fresh(self, streams: int) -> Records:
        """(B,) records of streams that have not seen a reading."""
        return state.fresh(self.record, self.detector.initial(streams), self.detector.digest, self.slots)

    def step(
        self,
        heads: Records,
        seqs: NDArray[np.int64],
        times_ms: NDArray[np.int64],
        values: NDArray[np.float64],
        layouts: Sequence[Layout] | None = None,
        asked: Asked | None = None,
        unlearned: NDArray[np.bool_] | None = None,
        kept: NDArray[np.bool_] | None = None,
    ) -> Entries:
        """Feed one reading of each of R streams; moves `heads` forward and returns the entries for their histories.

        Where budgets are held, `settle` is to follow.

        Args:
            layouts: (R,) of the streams, where their channels are not the detector's; see serving/any_channels.py.
            asked: (R,) as in Detector.advance.
            unlearned: (R,) whether a reading teaches nothing: for the model its stream was silent; None where all do.
            kept: (R,) whether a stream goes on, or begins, to be kept from learning: what follows a reading of it is
                followed and teaches nothing. None where none is.
        """
        held = None if kept is None else kept & ((heads["status"] & state.KEPT) != 0)
        normal = None if held is None else heads["detector"][held]
        chains = (self.chain,) if layouts is None else _chains(layouts)
        before = None if unlearned is None else heads["detector"][unlearned]
        try:
            step = self.detector.advance(values, times_ms, heads["detector"], _held(heads, times_ms, asked))
        except Exception as error:
            raise ModelFailed(
                f"model {self.detector.name} failed (the service's log says why); send the readings again"
            ) from error
        entries = np.empty(len(heads), self.entry)
        entries["n"] = heads["readings"]
        entries["timestamp_ms"] = times_ms
        entries["seq"] = seqs
        entries["session"] = heads["session"]
        entries["tag"] = tags_of(chains, heads["tag"], seqs, times_ms, values)
        entries["model"] = self._model
        entries["score"] = np.where(np.isnan(step.score), 0.0, step.score)  # no number, where a state was damaged
        entries["status"] = step.status + step.alert * np.uint8(state.ALERT)
        entries["status"] |= self.detector.is_open(step.states) * np.uint8(state.OPEN)
        entries["reason"] = step.reason
        if held is not None and normal is not None and held.any():
            heads["detector"][held] = self.detector.held(normal, heads["detector"][held])
            unknown = held & ~np.isfinite(step.half).any(axis=1)  # nothing from before the hold is left to judge by
            entries["status"][unknown] = WARMING_UP
            entries["status"] |= held * np.uint8(state.OPEN)
        if kept is not None:
            entries["status"] |= kept * np.uint8(state.KEPT)
        if unlearned is not None and before is not None:
            heads["detector"][unlearned] = unlearn(before, heads["detector"][unlearned])
            entries["reason"] |= np.where(unlearned, np.uint8(state.UNLEARNED), np.uint8(0))
        entries["single"] = 0
        entries["values"] = values
        entries["mid"] = step.mid
        entries["half"] = step.half
        entries["attribution"] = step.attribution
        observed = np.isfinite(values)
        observed |= heads["present"] & (heads["last_ms"] == times_ms)[:, None]
        heads["present"] = observed
        heads["readings"] += 1
        heads["tag"] = entries["tag"]
        heads["last_seq"] = seqs
        heads["last_ms"] = times_ms
        heads["newest_ms"] = np.maximum(heads["newest_ms"], times_ms)
        heads["score"] = entries["score"]
        heads["status"] = entries["status"]
        return entries

    def settle(self, heads: Records, entries: Entries, asked: Asked | None, gates: NDArray[np.uint8]) -> None:
        """Have R streams whose budgets are held take in the alerts of their readings that no gate decided about.

        Args:
            heads: (R,) after `step`; moved.
            entries: (R,) that `step` made.
            gates: (R,) reasons with the gates' bits.
        """
        if asked is None or not np.isfinite(asked.held).any():
            return
        told = ((entries["status"] & state.ALERT) != 0) & ((gates & state.GATE_BITS) == 0)
        after = budget_loop.alerted(heads["level"], asked.least, told)
        heads["level"] = np.where(np.isfinite(asked.held), after, 0.0)

    def replay(
        self,
        records: Records,
        readings: Sequence[Entries],
        layouts: Sequence[Layout] | None = None,
        asked: Asked | None = None,
        ruling: Ruling | None = None,
    ) -> list[Entries]:
        """Feed each of B streams its readings, in their order and in rounds; returns the new entries of each.

        Args:
            records: (B,) moved forward.
            readings: of each stream, any number.
            layouts, asked: (B,) as in `step`.
            ruling: of the streams; None where what was decided about the readings stands.
        """
        lengths = np.array([len(of_stream) for of_stream in readings])
        given = np.zeros((max(lengths, default=0), len(lengths)), self.entry)
        for row, of_stream in enumerate(readings):
            given[: len(of_stream), row] = of_stream
        entries = np.empty_like(given)
        for at in range(len(given)):
            rows = np.flatnonzero(lengths > at)
            heads, one = records[rows], given[at, rows]
            began = heads["session"] != one["session"]
            heads["session_ms"] = np.where(began, one["timestamp_ms"], heads["session_ms"])
            heads["session"] = one["session"]
            if ruling is not None:
                ruling.before(heads, one, rows)
            own = None if asked is None else asked.at(rows)
            made = self.step(
                heads,
                one["seq"],
                one["timestamp_ms"],
                one["values"],
                None if layouts is None else [layouts[row] for row in rows.tolist()],
                own,
                unlearned(one),
                kept_from_learning(one),
            )
            if ruling is not None:
                ruling.after(heads, made, one, rows)
            self.settle(heads, made, own, one["reason"] if ruling is None else made["reason"])
            made["status"] |= one["status"] & state.ENDED
            end(heads, one)
            entries[at, rows], records[rows] = made, heads
        entries["single"] = given["single"]
        return [entries[:length, row] for row, length in enumerate(lengths.tolist())]

    def rebuild(self, histories: Sequence[Entries], asked: Asked | None = None) -> Records:
        """(B,) the records after the readings of histories, stepped from nothing by this model; n and tags go on.

        Args:
            asked: (B,) as in `step`.
        """
        records = self.fresh(len(histories))
        records["status"] = [entries["status"][0] & state.KEPT if len(entries) else 0 for entries in histories]
        for at in range(max(map(len, histories), default=0)):
            rows = [row for row, entries in enumerate(histories) if len(entries) > at]
            readings = np.concatenate([histories[row][at : at + 1] for row in rows])
            heads = records[rows]
            own = None if asked is None else asked.at(rows)
            columns = (readings["seq"], readings["timestamp_ms"], readings["values"])
            kept = kept_from_learning(readings)
            entries = self.step(heads, *columns, asked=own, unlearned=unlearned(readings), kept=kept)
            self.settle(heads, entries, own, readings["reason"])
            end(heads, readings)
            records[rows] = heads
        for row, entries in enumerate(histories):
            if len(entries):
                last = entries[-1]
                records["readings"][row] = last["n"] + 1
                records["tag"][row] = last["tag"]
                records["session"][row] = last["session"]
                of_session = entries["session"] == last["session"]
                if last["session"]:
                    records["session_ms"][row] = entries["timestamp_ms"][of_session][0]
        return records

    def read_history(self, ring: bytes, layout: Layout, seed: int) -> Entries:
        """A stream's last readings, oldest first, in the channels of the stream."""
        return history.unpack_entries(ring, layout, seed)[-self.slots :]

    def number_at(self, layout: Layout, count: int) -> tuple[int, int]:
        """Where in a history the number of the reading stands that is to be overwritten by number `count`."""
        start = len(layout.ring_header) + count % self.slots * layout.entry.itemsize + _NUMBER
        return start, start + 7

    def slots_in(self, layouts: Sequence[Layout], seeds: Sequence[int], rows: Sequence[int], entries: Entries) -> Slots:
        """Of entries in this model's channels: the row of the stream, where it belongs in its history, and its bytes.

        Args:
            layouts, seeds: of the stream of each entry.
        """
        if all(layout is self.usual for layout in layouts):
            return self._placed(self.usual, seeds, rows, entries)
        if all(layout.whole for layout in layouts):
            return self._placed_each(layouts, seeds, rows, entries)
        slots: Slots = []
        for at, (layout, seed, row) in enumerate(zip(layouts, seeds, rows, strict=True)):
            slots += self._placed(layout, (seed,), (row,), history.spread(entries[at : at + 1], layout))
        return slots

    def slots_anew(self, layout: Layout, seed: int, row: int, kept: Entries) -> Slots:
        """A whole history, of one stream's entries that are in its own channels already."""
        return [(row, 0, layout.ring_header), *self.slots_of(layout, seed, row, kept)]

    def slots_of(self, layout: Layout, seed: int, row: int, kept: Entries) -> Slots:
        """`slots_in` of one stream's entries that are in its own channels already."""
        return self._placed(layout, repeat(seed), repeat(row), kept)

    def pieces_of(self, layout: Layout, seed: int, row: int, entries: Entries) -> Slots:
        """`slots_in` of consecutive entries of one stream, joined into one piece, or two at the end of its ring."""
        last = history.spread(entries[-self.slots :], layout)
        packed = history.pack_entries(last, repeat(layout.slot_seed(seed)))
        start = int(last["n"][0]) % self.slots
        ahead, begin, size = self.slots - start, len(layout.ring_header), layout.entry.itemsize
        parts = [(start, packed[:ahead]), (0, packed[ahead:])]
        return [(row, begin + slot * size, b"".join(part)) for slot, part in parts if part]

    def _placed(self, layout: Layout, seeds: Iterable[int], rows: Iterable[int], kept: Entries) -> Slots:
        offsets = kept["n"] % np.uint64(self.slots) * np.uint64(kept.dtype.itemsize) + len(layout.ring_header)
        packed = history.pack_entries(kept, map(layout.slot_seed, seeds))
        return list(zip(rows, offsets.tolist(), packed, strict=False))

    def _placed_each(
        self, layouts: Sequence[Layout], seeds: Sequence[int], rows: Sequence[int], kept: Entries
    ) -> Slots:
        """`_placed` of entries of several streams, each in the layout of its own, which has all of the channels."""
        headers = np.array([len(layout.ring_header) for layout in layouts], np.uint64)
        offsets = kept["n"] % np.uint64(self.slots) * np.uint64(kept.dtype.itemsize) + headers
        slot_seeds = [layout.slot_seed(seed) for layout, seed in zip(layouts, seeds, strict=True)]
        return list(zip(rows, offsets.tolist(), history.pack_entries(kept, slot_seeds), strict=True))


def let_go(records: Records) -> None:
    """Have (R,) streams learn from their next readings on; what is strange then is another incident."""
    records["detector"] = with_incidents_ended(records["detector"])
    records["status"] &= np.uint8(~(state.KEPT | state.OPEN | state.HELD) & 0xFF)


def end(heads: Records, readings: Entries) -> None:
    """Let go of those of (R,) streams whose incidents ended after (R,) readings, as the history says."""
    ended: NDArray[Any] = (readings["status"] & state.ENDED) != 0
    if ended.any():
        some = heads[ended]
        let_go(some)
        heads[ended] = some


def unlearned(readings: Entries) -> NDArray[np.bool_] | None:
    """(R,) which readings of histories taught nothing; None where all did."""
    marked = (readings["reason"] & state.UNLEARNED) != 0
    return marked if marked.any() else None


def kept_from_learning(readings: Entries) -> NDArray[np.bool_] | None:
    """(R,) which readings of histories say that their streams are kept from learning; None where none does."""
    marked = (readings["status"] & state.KEPT) != 0
    return marked if marked.any() else None


def _held(heads: Records, times_ms: NDArray[np.int64], asked: Asked | None) -> Asked | None:
    """What is asked of R streams, with the factors of those whose budgets are held; moves their levels with time."""
    if asked is None or not np.isfinite(asked.held).any():
        return asked
    judged = (heads["readings"] > 0) & ((heads["status"] & state.STATUS_BITS) != WARMING_UP)
    elapsed_ms = np.where(judged, times_ms - heads["last_ms"], 0)
    levels = budget_loop.drifted(heads["level"], asked.held, asked.least, elapsed_ms)
    heads["level"] = levels
    return replace(asked, sensitivity=asked.sensitivity * np.exp(levels))


def _chains(layouts: Sequence[Layout]) -> list[Chain]:
    """Of each stream, or the one of all."""
    first = layouts[0]
    return [first.chain] if all(layout is first for layout in layouts) else [layout.chain for layout in layouts]
