"""Applying: step and judge the readings of a batch, and say what is to be saved of it. Pure: nothing waits here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.budget_loop import at_bound
from gatewatch.models.detectors.detector import Detector
from gatewatch.service.core import corrections
from gatewatch.service.core import records as state
from gatewatch.service.core.history import Entries
from gatewatch.service.core.loading import LoadedBatch
from gatewatch.service.core.outcomes import Refused, not_taken
from gatewatch.service.core.readings import Batch, Model
from gatewatch.service.core.records import Records
from gatewatch.service.core.sequencing import Decision, Round, decide
from gatewatch.service.core.store import Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.rules import NO_RULES, Rules, keep, kept, mark, unlearned
from gatewatch.service.incidents.running import Running


@dataclass
class Applied:
    """What a batch came to, before it is saved.

    Attributes:
        writes: what to save of each stream that changed.
        rounds: the readings that were applied, and their entries in the history.
        seen: place and row of readings that are not new.
        refused: place to why a reading cannot be applied.
        earlier: row and slot to an earlier record to be kept, of streams with a reorder window.
        was_open: (B,) whether each stream was in an incident before, as the detector sees it.
        ruled: row of a stream whose incidents go by rules, to these.
        held: those of them that are to be looked at, whatever the detector says.
        levels: (B,) of the loops that hold budgets, before; None where no budget is held.
        loosed: rows of streams whose budget is held no more.
        was_silent: row of a stream that had been found silent, to how many readings it had sent by then.
        running: the incidents of streams after the batch, to be remembered once it is saved.
        clocks_set_back: readings whose time is before that of their stream's last one.
    """

    writes: Writes
    rounds: list[tuple[Round, Entries]] = field(default_factory=list)
    seen: list[tuple[int, int]] = field(default_factory=list)
    refused: dict[int, Refused] = field(default_factory=dict)
    earlier: dict[tuple[int, int], bytes] = field(default_factory=dict)
    was_open: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    ruled: dict[int, Rules] = field(default_factory=dict)
    held: set[int] = field(default_factory=set)
    levels: NDArray[np.float64] | None = None
    loosed: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))
    was_silent: dict[int, int] = field(default_factory=dict)
    running: dict[StreamKey, Running] = field(default_factory=dict)
    clocks_set_back: int = 0


def apply(
    batch: Batch,
    rounds: list[Round],
    loaded: LoadedBatch,
    now_ms: int,
) -> Applied:
    """Run a batch through its detector, in rounds of at most one reading of each stream.

    Args:
        now_ms: the time of arrival of readings without a time.
    """
    applied = Applied(Writes(now_ms / 1000))
    detector, records = batch.model.detector, loaded.records
    applied.was_open = was_open = detector.is_open(records["detector"]).copy()
    marked = records["status"] & (state.HELD | state.SILENT)
    if np.count_nonzero(marked):
        applied.held = set((marked & state.HELD).nonzero()[0].tolist())
        silent = (marked & state.SILENT).nonzero()[0]
        applied.was_silent = dict(zip(silent.tolist(), records["readings"][silent].tolist(), strict=True))
    applied.ruled = dict.fromkeys(applied.held, NO_RULES) | loaded.rules
    held = None if loaded.asked is None else np.isfinite(loaded.asked.held)
    if np.count_nonzero(records["level"]):  # a budget that is held no more leaves nothing behind
        applied.loosed = np.flatnonzero((records["level"] != 0) & (True if held is None else ~held))
        records["level"][applied.loosed] = 0.0
    if records["step_n"].any():  # nor does a step of a stream that has labels no more
        labelled = [row for row, own in loaded.rules.items() if own.quiet]
        state.forget_steps(records, np.setdiff1d(np.flatnonzero(records["step_n"]), labelled))
    applied.levels = records["level"].copy() if held is not None and held.any() else None
    for round_ in rounds:
        if loaded.excess:
            round_ = _without_excess(applied, batch, loaded, round_)
        if len(round_.rows):
            _apply_round(applied, batch, loaded, round_, decide(batch, round_.places, _heads(records, round_), now_ms))
    if not applied.rounds and not loaded.causes:
        return applied
    if len(applied.rounds) > 1:  # from here on they are one
        rows, places = (np.concatenate([getattr(r, what) for r, _ in applied.rounds]) for what in ("rows", "places"))
        applied.rounds = [(Round(rows, places), np.concatenate([entries for _, entries in applied.rounds]))]
        changed = np.unique(rows)
    else:
        changed = applied.rounds[0][0].rows if applied.rounds else np.empty(0, np.intp)
    if loaded.causes:  # a rebuilt state is kept though no reading is new: the history then answers those sent again
        changed = np.union1d(changed, list(loaded.causes))
    _write(applied, batch, loaded, changed)
    if applied.levels is not None and held is not None and loaded.asked is not None:
        least = loaded.asked.least
        was, is_ = ((held & at_bound(of, least))[changed] for of in (applied.levels, records["level"]))
        applied.writes.bounds = {at: bool(is_[at]) for at in np.flatnonzero(was | is_).tolist()}
    if len(applied.loosed):
        applied.writes.bounds |= dict.fromkeys(np.flatnonzero(np.isin(changed, applied.loosed)).tolist(), False)
    applied.writes.opened, applied.writes.closed = _incidents(detector, loaded.streams, was_open, records)
    return applied


def whole(model: Model, loaded: LoadedBatch, now_ms: int) -> Writes:
    """What saves streams as they are, their history too where that was recovered."""
    slots = [
        slot
        for row, kept in loaded.recovered.items()
        for slot in model.stepper.slots_anew(loaded.layouts[row], loaded.seeds[row], row, kept)
    ]
    records = state.pack(loaded.records, loaded.layouts, loaded.seeds)
    writes = Writes(now_ms / 1000, loaded.streams, loaded.fences, records, slots, list(loaded.recovered))
    writes.channels = loaded.more_channels()
    return writes


def _heads(records: Records, round_: Round) -> Records:
    heads: Records = records if len(round_.rows) == len(records) else records[round_.rows]
    return heads


def _apply_round(applied: Applied, batch: Batch, loaded: LoadedBatch, round_: Round, decision: Decision) -> None:
    """Step one reading of each of several streams; moves their records forward."""
    records, rows, places = loaded.records, round_.rows, round_.places
    heads = _heads(records, round_)
    times_ms = decision.times_ms
    if np.count_nonzero(decision.new) < len(rows):
        for at in np.flatnonzero(~decision.new).tolist():
            if at in decision.refused:
                applied.refused[int(places[at])] = decision.refused[at]
            else:
                applied.seen.append((int(places[at]), int(rows[at])))
        rows, places, times_ms = rows[decision.new], places[decision.new], times_ms[decision.new]
        heads = records[rows]
        if not len(rows):
            return
    due = corrections.due(heads, times_ms)
    if len(due):
        kept_rows = rows[due].tolist()
        own, seeds = [loaded.layouts[row] for row in kept_rows], [loaded.seeds[row] for row in kept_rows]
        for row, (slot, record) in zip(kept_rows, corrections.keep(heads, due, own, seeds), strict=True):
            applied.earlier[row, slot] = record
    applied.clocks_set_back += int(np.count_nonzero((times_ms < heads["last_ms"]) & (heads["readings"] > 0)))
    layouts = None if batch.layouts is None else [loaded.layouts[row] for row in rows.tolist()]
    asked, by_row = None if loaded.asked is None else loaded.asked.at(rows), loaded.rules
    ruled = [(at, by_row[row]) for at, row in enumerate(rows.tolist()) if row in by_row] if by_row else []
    entries = batch.model.stepper.step(
        heads,
        batch.seqs[places],
        times_ms,
        batch.values[places],
        layouts,
        asked,
        unlearned(ruled, times_ms),
        kept(ruled, heads["status"]),
    )
    if ruled:
        mark(entries, ruled, [loaded.layouts[row].model for row in rows.tolist()], heads)
        keep(heads, entries, ruled)
    batch.model.stepper.settle(heads, entries, asked, entries["reason"])
    if heads is not records:
        records[rows] = heads
    applied.rounds.append((Round(rows, places), entries))


def _without_excess(applied: Applied, batch: Batch, loaded: LoadedBatch, round_: Round) -> Round:
    """Refuse readings that would begin a stream, or a channel, too many."""
    excess = np.isin(round_.rows, list(loaded.excess))
    for place, row in zip(round_.places[excess].tolist(), round_.rows[excess].tolist(), strict=True):
        moment, seq = int(batch.timestamps_ms[place]), int(batch.seqs[place])
        applied.refused[place] = not_taken(batch.streams[place], moment, seq, loaded.excess[row])
    return Round(round_.rows[~excess], round_.places[~excess])


def _write(applied: Applied, batch: Batch, loaded: LoadedBatch, changed: Any) -> None:
    """Say what is to be saved of the streams in these rows."""
    writes, records, stepper = applied.writes, loaded.records, batch.model.stepper
    whole = len(changed) == len(records)
    row_of = dict(zip(changed.tolist(), range(len(changed)), strict=True))
    seeds = loaded.seeds if whole else [loaded.seeds[row] for row in row_of]
    layouts = loaded.layouts if whole else [loaded.layouts[row] for row in row_of]
    writes.records = state.pack(records if whole else records[changed], layouts, seeds)
    writes.streams = loaded.streams if whole else [loaded.streams[row] for row in row_of]
    writes.fences = loaded.fences if whole else [loaded.fences[row] for row in row_of]
    writes.channels = {row_of[row]: more for row, more in loaded.more_channels().items() if row in row_of}
    for row, entries in loaded.recovered.items():  # of streams with a rebuilt state, and of new ones
        if row in row_of:
            writes.anew.append(row_of[row])
            writes.slots += stepper.slots_anew(loaded.layouts[row], loaded.seeds[row], row_of[row], entries)
    for round_, entries in applied.rounds:
        at = [row_of[row] for row in round_.rows.tolist()]
        writes.slots += stepper.slots_in([layouts[row] for row in at], [seeds[row] for row in at], at, entries)
    writes.earlier = {(row_of[row], slot): record for (row, slot), record in applied.earlier.items()}


def _incidents(
    detector: Detector, streams: list[StreamKey], was_open: Any, records: Records
) -> tuple[set[StreamKey], set[StreamKey]]:
    """Streams that are in an incident, and those whose incident ended."""
    is_open = detector.is_open(records["detector"])
    if not np.count_nonzero(was_open | is_open):
        return set(), set()
    opened, closed = is_open.nonzero()[0].tolist(), (was_open & ~is_open).nonzero()[0].tolist()
    return {streams[row] for row in opened}, {streams[row] for row in closed}
