"""The correction of a stream under way: its steps, what it follows, and what is saved of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.asked import Asked, together, words
from gatewatch.models.detectors.budget_loop import at_bound
from gatewatch.service.core import history
from gatewatch.service.core import records as state
from gatewatch.service.core.corrections import Correction
from gatewatch.service.core.history import Entries
from gatewatch.service.core.late_readings import LateReading
from gatewatch.service.core.layout import Layout
from gatewatch.service.core.loading import LoadedBatch
from gatewatch.service.core.outcomes import Answer, Outcomes, encode
from gatewatch.service.core.readings import Model
from gatewatch.service.core.records import Records
from gatewatch.service.core.store import Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.corrected import Corrected
from gatewatch.service.incidents.rules import Rules, counts, keep, mark

SLICE_STEPS: Final = 256
"""Readings replayed before those that wait are looked at again: some 20 ms of a stream that is alone."""


@dataclass
class CorrectionJob:
    """The correction of one stream under way.

    Attributes:
        late: the readings that get their places, in the order of those.
        packed: the stream's record in Redis when it was last looked at.
        attempts: how often it was begun, or saved, in vain.
        asked: of the stream's scoring; None where that is nothing.
        rules: of the stream's incidents, if any.
        holds: it is kept from learning from one of its readings on, with which that is new.
        answers: to `late`, once they are known.
        alerts: of incidents that begin with what was scored anew.
    """

    stream: StreamKey
    layout: Layout
    seed: int
    correction: Correction
    late: list[LateReading]
    packed: bytes | None
    attempts: int = 0
    asked: Asked | None = None
    rules: Rules | None = None
    holds: bool = False
    answers: list[Answer] = field(default_factory=list)
    alerts: list[bytes] = field(default_factory=list)


class _Ruling:
    """What the rules of streams make of readings that are scored anew.

    A reading that counted before, too, keeps its stream from learning if it did then. One that counts only now, under
    `hold`, keeps it from there on, until a person closed what was open then.
    """

    def __init__(self, jobs: list[CorrectionJob]) -> None:
        self._jobs = jobs

    def before(self, heads: Records, readings: Entries, rows: NDArray[np.intp]) -> None:
        for at, row in enumerate(rows.tolist()):
            if self._jobs[row].holds and heads["status"][at] & state.KEPT:
                readings["status"][at] |= state.KEPT
                readings["status"][at] &= np.uint8(~state.LET_GO & 0xFF)  # the rules say so anew, when all is replayed

    def after(self, heads: Records, entries: Entries, readings: Entries, rows: NDArray[np.intp]) -> None:
        jobs = [self._jobs[row] for row in rows.tolist()]
        own = [(at, job.rules) for at, job in enumerate(jobs) if job.rules is not None]
        mark(entries, own, [job.layout.model for job in jobs], heads)
        anew = [(at, rules) for at, rules in own if not counts(readings[at])]
        for at in keep(heads, entries, anew):
            jobs[at].holds = True
        for at in np.flatnonzero(readings["status"] & state.CLOSED).tolist():
            jobs[at].holds = False


def step(model: Model, jobs: list[CorrectionJob], most: int) -> int:
    """Replay up to so many readings of each stream; returns how many in all."""
    records = np.concatenate([job.correction.record for job in jobs])
    parts = [job.correction.part(most) for job in jobs]
    layouts = [job.layout for job in jobs] if model.any_channels else None
    asked = together([job.asked for job in jobs], len(model.detector.channels))
    for row, entries in enumerate(model.stepper.replay(records, parts, layouts, asked, _Ruling(jobs))):
        jobs[row].correction.advance(records[row : row + 1].copy(), entries, jobs[row].layout, jobs[row].seed)
    return sum(map(len, parts))


def follow(
    model: Model,
    jobs: list[CorrectionJob],
    loaded: LoadedBatch,
    packed: Sequence[bytes | None],
    rings: dict[int, bytes],
) -> set[int]:
    """Have corrections catch up with streams that were written meanwhile; returns those that begin anew.

    Args:
        packed: the streams' records now.
        rings: row to the history of such a stream.
    """
    vain = set()
    for row, ring in rings.items():
        job = jobs[row]
        if row in loaded.others:
            vain.add(row)
        elif job.correction.follow(
            loaded.records[row : row + 1], kept_history(model, ring, loaded.layouts[row], job.seed)
        ):
            job.packed = packed[row]
        else:
            vain.add(row)
    short = [jobs[row] for row in rings if row not in vain and jobs[row].correction.left <= SLICE_STEPS]
    if short:
        step(model, short, SLICE_STEPS)
    return vain


def kept_history(model: Model, ring: bytes, layout: Layout, seed: int) -> Entries:
    return history.gathered(model.stepper.read_history(ring, layout, seed), layout)


def writes_of(model: Model, jobs: list[CorrectionJob], loaded: LoadedBatch, rows: list[int], now_ms: int) -> Writes:
    """What is to be saved of corrections that are done; notes the answers of their readings."""
    stepper, detector = model.stepper, model.detector
    writes = Writes(now_ms / 1000, [loaded.streams[row] for row in rows], [loaded.fences[row] for row in rows])
    for at, row in enumerate(rows):
        job = jobs[row]
        entries = job.correction.finish()
        if row in loaded.recovered:
            writes.anew.append(at)
            writes.slots += stepper.slots_anew(job.layout, job.seed, at, loaded.recovered[row])
        writes.slots += stepper.pieces_of(job.layout, job.seed, at, entries)
        writes.earlier.update({(at, slot): kept for slot, kept in job.correction.earlier.items()})
        late = job.correction.entries[job.correction.places]
        outcomes = Outcomes([job.stream] * len(late), late, [job.layout.model] * len(late), replayed=False)
        job.answers = encode([reading.batch.encoders[reading.place] for reading in job.late], outcomes)
    ruled = np.array([jobs[row].rules is not None for row in rows])
    held = np.where(ruled, np.uint8(state.HELD), loaded.records["status"][rows] & state.HELD)
    for row, bit in zip(rows, held, strict=True):
        jobs[row].correction.record["status"] |= bit
    records = np.concatenate([jobs[row].correction.record for row in rows])
    writes.records = state.pack(records, [jobs[row].layout for row in rows], [jobs[row].seed for row in rows])
    for at, row in enumerate(rows):
        asked = jobs[row].asked
        if asked is not None and np.isfinite(asked.held).all():
            of_loop = (at_bound(of, asked.least)[0] for of in (loaded.records["level"][row], records["level"][at]))
            was, is_ = map(bool, of_loop)
            writes.bounds |= {at: is_} if was or is_ else {}
    was_open, is_open = (detector.is_open(of["detector"]) for of in (loaded.records[rows], records))
    writes.opened = {writes.streams[at] for at in np.flatnonzero(is_open & ~ruled)}
    writes.closed = {writes.streams[at] for at in np.flatnonzero(was_open & ~is_open & ~ruled)}
    return writes


def corrected(done: Sequence[tuple[int, CorrectionJob]], rows: Sequence[int]) -> list[Corrected]:
    """The streams where an incident may begin, or alert, that did not; `rows`: of each job that is done."""
    return [
        Corrected(at, rows[at], job.stream, job.layout, job.seed, words(job.asked), job.rules, job.correction)
        for at, job in done
        if (len(job.correction.begun()) if job.rules is None else job.correction.counts_anew())
    ]


def back(
    done: Sequence[tuple[int, CorrectionJob]], loaded: LoadedBatch, rows: Sequence[int]
) -> list[tuple[int, StreamKey, int, int]]:
    """The streams that had been found silent, see IncidentWriter.back: a late reading is a sign of life, too."""
    before = loaded.records[rows]
    silent = (before["status"] & state.SILENT) > 0
    return [(at, job.stream, int(before["readings"][at]), int(before["last_ms"][at])) for at, job in done if silent[at]]
