"""Corrector: gives late readings their places, beside the batches, so that no other stream waits for it.

What a correction costs is known before it begins: the readings to be replayed. So much of it may wait, and no more.
Those under way are stepped together, a slice at a time and off the event loop; whoever is done leaves, whoever waits
joins. Nothing is held meanwhile: what a stream has seen since its correction began is replayed at its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from gatewatch.models.detectors.asked import Asked, together, words
from gatewatch.service.clock import Clock
from gatewatch.service.core import corrections, history
from gatewatch.service.core import records as state
from gatewatch.service.core.bookkeeping import Bookkeeping, alert_of
from gatewatch.service.core.contention import ContentionBackoff
from gatewatch.service.core.corrections import Correction, Gap
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout, layout_of
from gatewatch.service.core.loading import LoadedBatch, Loader
from gatewatch.service.core.outcomes import Answer, Outcomes, encode, encode_kept
from gatewatch.service.core.readings import NO_SEQ, Batch, Model, Models
from gatewatch.service.core.records import Records
from gatewatch.service.core.sequencing import across_gap, decide, unanswered
from gatewatch.service.core.store import Store, Writes
from gatewatch.service.core.stream_channels import all_channels
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import Contended, ServiceError, StoreUnavailable, TooManyWaiting, cause_of, other_channels
from gatewatch.service.incidents.recorder import Begun, Corrected, Recorder
from gatewatch.service.incidents.rules import Rules, mark
from gatewatch.service.observability.metrics import Metrics

log = structlog.get_logger(__name__)

T = TypeVar("T")

SLICE_STEPS: Final = 256
"""Readings replayed before those that wait are looked at again: some 20 ms of a stream that is alone."""

MOST_STREAMS: Final = 256
"""Corrected together; a round of so many takes a few milliseconds."""

MOST_STEPS: Final = 131_072
"""Readings in memory of the streams that are corrected together, but for one that is long: some 100 MB."""

MOST_LATE: Final = 65_536
"""Late readings that wait; those of a stream that waits already cost a step more and no replay."""

LONG: Final = 4096
"""Readings; a stream that has more to be replayed is long, and one of them is under way at a time."""

FIRST_PACE_S: Final = 0.0002
"""What a reading is taken to cost until some were replayed: 0.02 to 0.7 ms, by model and streams (measured)."""

PACE_GAIN: Final = 0.2
"""How much the last SLICE_STEPS count in the time that a reading takes."""


@dataclass(frozen=True)
class _Late:
    """A late reading, where it stands in its batch, and the future of its answer."""

    batch: Batch
    place: int
    done: asyncio.Future[Answer]

    @property
    def layout(self) -> Layout:
        """That its row is in, of a model that takes any channels."""
        return (self.batch.layouts or ())[self.place]

    @property
    def seq(self) -> int:
        return int(self.batch.seqs[self.place])

    @property
    def time_ms(self) -> int:
        return int(self.batch.timestamps_ms[self.place])

    @property
    def identity(self) -> int:
        return self.time_ms if self.seq == NO_SEQ else self.seq


@dataclass
class _Waiting:
    """The late readings of one stream that wait.

    Attributes:
        steps: what they are taken to cost, in readings to be replayed.
        attempts: how often they were begun in vain.
    """

    late: list[_Late] = field(default_factory=list)
    steps: int = 0
    attempts: int = 0


@dataclass
class _Job:
    """The correction of one stream under way.

    Attributes:
        late: the readings that get their places, in the order of those.
        packed: the stream's record in Redis when it was last looked at.
        attempts: how often it was begun, or saved, in vain.
        asked: of the stream's scoring; None where that is nothing.
        rules: of the stream's incidents, if any.
        answers: to `late`, once they are known.
        alerts: of incidents that begin with what was scored anew.
    """

    stream: StreamKey
    layout: Layout
    seed: int
    correction: Correction
    late: list[_Late]
    packed: bytes | None
    attempts: int = 0
    asked: Asked | None = None
    rules: Rules | None = None
    answers: list[Answer] = field(default_factory=list)
    alerts: list[bytes] = field(default_factory=list)


_Told = tuple[_Late, str, Answer]
"""A late reading that has no place: its status and its answer; or an error, if it is late no more."""


class Corrector:
    """Corrects the streams of one scorer."""

    def __init__(
        self,
        models: Models,
        store: Store,
        loader: Loader,
        incidents: Recorder,
        books: Bookkeeping,
        metrics: Metrics,
        backoff: ContentionBackoff,
        clock: Clock,
        attempts: int,
        waiting_ms: float,
    ) -> None:
        """Work with the scorer's parts.

        Args:
            attempts: to save a stream that other processes write.
            waiting_ms: most time that corrections ahead of a late reading may take.
        """
        self._models = models
        self._store = store
        self._loader = loader
        self._incidents = incidents
        self._books = books
        self._metrics = metrics
        self._backoff = backoff
        self._clock = clock
        self._attempts = attempts
        self._waiting_s = waiting_ms / 1000
        self._waiting: dict[StreamKey, _Waiting] = {}
        self._joining: dict[StreamKey, _Waiting] = {}  # those whose corrections are being begun
        self._under_way: dict[StreamKey, _Job] = {}
        self._steps = 0  # of all that wait or are under way
        self._late = 0  # readings that wait
        self._step_s = FIRST_PACE_S
        self._task: asyncio.Task[None] | None = None

    def take(self, batch: Batch, place: int, record: Records) -> asyncio.Future[Answer] | ServiceError:
        """Have a late reading put in its place; the future of its answer, or why it cannot be taken now.

        Args:
            record: its stream's.
        """
        stream = batch.streams[place]
        ahead_s = (self._steps - self._steps_of(stream)) * self._step_s
        if ahead_s > self._waiting_s or self._late >= MOST_LATE:
            return TooManyWaiting(
                f"{self._late} late readings wait, behind corrections that take {ahead_s:.1f} s; at most {MOST_LATE} "
                f"may wait, and {self._waiting_s:g} s be ahead of one (GATEWATCH_CORRECTING_MS): send the same "
                "request again after the time in Retry-After, nothing is lost"
            )
        late = _Late(batch, place, asyncio.get_running_loop().create_future())
        self._wait(stream, [late], int(record["readings"]))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="corrector")
        return late.done

    async def finish(self) -> None:
        """Wait until nothing is left to be corrected."""
        if self._task is not None:
            await self._task

    def _steps_of(self, stream: StreamKey) -> int:
        """What the corrections of a stream are taken to cost, that wait or are under way."""
        waiting = (of[stream].steps for of in (self._waiting, self._joining) if stream in of)
        job = self._under_way.get(stream)
        return sum(waiting) + (job.correction.left if job else 0)

    def _wait(self, stream: StreamKey, late: list[_Late], readings: int, attempts: int = 0) -> None:
        """Have late readings of a stream that has so many readings wait."""
        waiting = self._waiting.setdefault(stream, _Waiting())
        steps = len(late) + (0 if waiting.late else min(readings, late[0].batch.model.stepper.slots))
        waiting.late += late
        waiting.steps += steps
        waiting.attempts = max(waiting.attempts, attempts)
        self._steps += steps
        self._late += len(late)

    async def _work(self) -> None:
        """Correct what waits until nothing is left."""
        while self._waiting or self._under_way:
            began, steps = self._clock.monotonic(), 0
            self._joining = joining = self._next()
            for stream, waiting in joining.items():
                waiting.late = _alike(self._fitting(stream, waiting.late, waiting.late[0].batch.model))
            try:
                for model, streams in _by_model((stream, waiting.late[0]) for stream, waiting in joining.items()):
                    await self._begin(model, {stream: joining[stream] for stream in streams})
            except Exception as error:
                self._fail([late for waiting in joining.values() for late in waiting.late], error)
            self._joining = {}
            jobs = list(self._under_way.values())
            try:
                for model, going_on in _by_model((job, job.late[0]) for job in jobs if job.correction.left):
                    steps += await self._advance(model, going_on)
                jobs = [job for job in jobs if not job.correction.left]
                for model, done in _by_model((job, job.late[0]) for job in jobs):
                    await self._save(model, done)
            except Exception as error:
                for job in jobs:
                    self._under_way.pop(job.stream, None)
                self._fail([late for job in jobs for late in job.late], error)
            if steps:
                step_s = (self._clock.monotonic() - began) / steps
                self._step_s += (step_s - self._step_s) * PACE_GAIN * min(1.0, steps / SLICE_STEPS)
            self._steps = sum(waiting.steps for waiting in self._waiting.values())
            self._steps += sum(job.correction.left for job in self._under_way.values())

    def _next(self) -> dict[StreamKey, _Waiting]:
        """Of the streams that wait those that there is room for, whoever waits longest first."""
        sizes = [len(job.correction.readings) for job in self._under_way.values()]
        long, room = max(sizes, default=0) > LONG, MOST_STEPS - sum(size for size in sizes if size <= LONG)
        joining: dict[StreamKey, _Waiting] = {}
        for stream, waiting in self._waiting.items():
            if room <= 0 or len(sizes) + len(joining) >= MOST_STREAMS:
                break
            if stream in self._under_way or (waiting.steps > LONG and long):
                continue
            joining[stream] = waiting
            if waiting.steps > LONG:
                long = True
            else:
                room -= waiting.steps
        for stream, waiting in joining.items():
            del self._waiting[stream]
            self._late -= len(waiting.late)
        return joining

    async def _begin(self, model: Model, joining: dict[StreamKey, _Waiting]) -> None:
        """Load streams and begin their corrections; readings that have no place get their answers."""
        streams, store = list(joining), self._store
        packed = await store.load(streams)
        layouts = [joining[stream].late[0].layout for stream in streams] if model.any_channels else None
        loaded = await self._loader.load(model, streams, packed, layouts=layouts)
        if loaded.moved:
            for stream, waiting in joining.items():
                await self._wait_anew(stream, waiting.late, waiting.attempts, stream in loaded.moved)
            return
        for row in [*loaded.others, *loaded.before]:
            layout, waiting = loaded.others.get(row) or loaded.layouts[row], joining[streams[row]]
            relaid = [_relaid(reading, model, layout) for reading in waiting.late]
            self._again(streams[row], relaid, loaded.records[row], waiting.attempts)
            del joining[streams[row]]
        if loaded.others or loaded.before:
            if joining:
                await self._begin(model, joining)
            return
        earlier = await store.load_earlier(streams)
        rings = await store.load_histories(streams)
        late = [joining[stream].late for stream in streams]
        if not model.any_channels:
            late = [_for_model(of_one, model) for of_one in late]
        begun = await asyncio.to_thread(
            lambda: [
                self._place(model, loaded, row, *of_one)
                for row, of_one in enumerate(zip(earlier, rings, late, strict=True))
            ]
        )
        now = await store.load(streams)
        for row, (stream, (correction, chosen, told, twins)) in enumerate(zip(streams, begun, strict=True)):
            attempts = joining[stream].attempts
            if now[row] != packed[row]:  # record, earlier records and history are of different times
                self._again(stream, joining[stream].late, loaded.records[row], attempts)
                continue
            for reading, status, text in told:
                if isinstance(text, ServiceError):
                    self._fail([reading], text)
                    continue
                self._metrics.replayed(1) if status == "replayed" else self._metrics.answered(status, 1)
                _give(reading, text)
            if correction is not None:
                asked = None if loaded.asked is None else loaded.asked.at([row])
                own = (loaded.layouts[row], loaded.seeds[row], correction, chosen, packed[row], attempts, asked)
                job = _Job(stream, *own, loaded.rules.get(row))
                self._under_way[stream] = job
            if twins:
                self._wait(stream, twins, int(loaded.records["readings"][row]))

    async def _wait_anew(self, stream: StreamKey, late: list[_Late], attempts: int, moved: bool) -> None:
        """Have late readings wait again; with `moved`, for the model that their stream has by now."""
        if moved:
            try:
                model = await self._models.of(stream)
            except StoreUnavailable as error:
                self._fail(late, error)
                return
            late = _for_model(self._fitting(stream, late, model), model)
            if not late:
                return
        self._wait(stream, late, late[0].batch.model.stepper.slots, attempts)

    def _fitting(self, stream: StreamKey, late: list[_Late], model: Model) -> list[_Late]:
        """Those late readings that a model takes; the others get their errors."""
        fitting: list[_Late] = []
        for one in late:
            if one.batch.fits(one.place, model):
                fitting.append(one)
            else:
                self._fail([one], other_channels(stream))
        return fitting

    def _place(
        self, model: Model, loaded: LoadedBatch, row: int, kept: Sequence[bytes], ring: bytes, late: list[_Late]
    ) -> tuple[Correction | None, list[_Late], list[_Told], list[_Late]]:
        """Find places for the late readings of one stream.

        Returns:
            Its correction, and the readings that have their places in it; those that have none; and those that have
            to wait because they stand here twice.
        """
        stepper, stream, seed, record = model.stepper, loaded.streams[row], loaded.seeds[row], loaded.records[row]
        layout = loaded.layouts[row]
        told: list[_Told] = []
        apart: dict[int, _Late] = {}
        twins: list[_Late] = []
        values = np.array([reading.batch.values[reading.place] for reading in late])
        seqs, times_ms = [reading.seq for reading in late], [reading.time_ms for reading in late]
        known = history.find_each(ring, layout, seed, seqs, times_ms, values)
        for reading, entry in zip(late, known, strict=True):
            decision = decide(reading.batch, np.array([reading.place]), loaded.records[row : row + 1], 0)
            if decision.new[0] or decision.refused:
                told.append((reading, "", _went_back(stream)))
                continue
            result = unanswered(reading.batch, reading.place, entry, layout, record)
            if result is None:  # another process was first, or the same reading a moment ago
                encoders = [reading.batch.encoders[reading.place]]
                (again,) = encode_kept(encoders, [stream], entry, layout)
                told.append((reading, "replayed", again))
            elif result.status != "late" or not corrections.within_window(record, reading.time_ms):
                told.append((reading, result.status, result))
            elif reading.identity in apart:
                twins.append(reading)
            else:
                apart[reading.identity] = reading
        if not apart:
            return None, [], told, twins
        in_order = [apart[identity] for identity in sorted(apart)]
        entries = np.zeros(len(in_order), stepper.entry)
        for at, reading in enumerate(in_order):
            entries["values"][at] = reading.batch.values[reading.place]
        if rules := loaded.rules.get(row):
            entries["reason"] = [0 if rules.teaches(reading.time_ms) else state.UNLEARNED for reading in in_order]
        entries["seq"] = [reading.seq for reading in in_order]
        entries["timestamp_ms"] = [reading.time_ms for reading in in_order]
        flawed, _, flaws = state.unpack(
            kept, [seed] * 2, stepper.record, [layout] * len(kept), stepper.detector.digest, stepper.slots
        )
        sound = {slot: flawed[slot : slot + 1] for slot in range(len(kept)) if slot not in flaws}
        since = _history(model, ring, layout, seed)
        correction, found = corrections.place(
            layout.chain,
            None if model.any_channels and np.isnan(since["attribution"]).any() else stepper.fresh(1),
            loaded.records[row : row + 1],
            sound,
            since,
            entries,
            stepper.slots,
        )
        chosen = []
        for reading, place in zip(in_order, found, strict=True):
            if isinstance(place, int):
                chosen.append(reading)
                continue
            if isinstance(place, Gap):
                result = across_gap(stream, reading.time_ms, reading.seq, place.expected)
            else:
                result = unanswered(reading.batch, reading.place, entries[:0], layout, record)
            if result is not None:
                told.append((reading, result.status, result))
        return correction, chosen, told, twins

    async def _advance(self, model: Model, jobs: list[_Job]) -> int:
        """Replay a slice of corrections; returns how many readings that were."""
        return await asyncio.to_thread(_step, model, jobs, max(1, SLICE_STEPS // len(jobs)))

    async def _save(self, model: Model, jobs: list[_Job]) -> None:
        """Save corrections that are done, and answer their readings.

        What a stream has seen meanwhile is replayed first; where that is much, the correction goes on instead.
        """
        began, streams = self._clock.monotonic(), [job.stream for job in jobs]
        async with self._store.begin(streams) as work:
            layouts = [job.layout for job in jobs] if model.any_channels else None
            loaded = await self._loader.load(model, streams, work.packed, layouts=layouts)
            if loaded.moved:
                for job in jobs:
                    if job.stream in loaded.moved:
                        del self._under_way[job.stream]
                        await self._wait_anew(job.stream, job.late, job.attempts, moved=True)
                return
            moved = [row for row, job in enumerate(jobs) if work.packed[row] != job.packed]
            rings = await self._store.load_histories([streams[row] for row in moved]) if moved else []
            vain = await asyncio.to_thread(
                _follow, model, jobs, loaded, work.packed, dict(zip(moved, rings, strict=True))
            )
            rows = [row for row, job in enumerate(jobs) if row not in vain and not job.correction.left]
            saved: list[bool] = []
            if rows:
                writes = await asyncio.to_thread(_writes, model, jobs, loaded, rows, self._clock.unix_ms())
                done = [(at, jobs[row]) for at, row in enumerate(rows)]
                begun = [
                    Begun(
                        at,
                        job.stream,
                        job.layout,
                        job.seed,
                        words(job.asked),
                        job.correction.start,
                        job.correction.since_begun(),
                    )
                    for at, job in done
                    if job.rules is None
                ]
                writes.incidents = await self._incidents.corrected(model, [one for one in begun if len(one.entries)])
                writes.incidents += await self._incidents.corrected_ruled(model, _ruled(done), writes)
                writes.incidents += await self._incidents.back(_back(done, loaded, rows))
                self._incidents.mute(writes)
                for row_at, job in done:
                    job.alerts = [alert for at, alert in writes.alerts if at == row_at]
                await work.send(writes)
                saved = await work.saved()
        for row in vain:
            del self._under_way[streams[row]]
            self._again(streams[row], jobs[row].late, loaded.records[row], jobs[row].attempts)
        if not rows:
            return
        lost = {streams[row] for row, ok in zip(rows, saved, strict=True) if not ok}
        now = self._clock.monotonic()
        self._backoff.saved(writes.streams, writes.records, lost, now - began, now)
        for row, ok in zip(rows, saved, strict=True):
            job = jobs[row]
            if ok:
                del self._under_way[job.stream]
                self._tell(job, loaded.causes.get(row))
                continue
            job.attempts += 1
            if job.attempts >= self._attempts:
                del self._under_way[job.stream]
                self._fail(job.late, _contended(job.stream))

    def _tell(self, job: _Job, cause: str | None) -> None:
        """Tell who waits, and those that count, that a correction was saved; `cause`: why its record was rebuilt."""
        correction = job.correction
        if cause is not None:
            self._metrics.rebuilt(cause)
        anew = len(correction.readings) - int(correction.places[0]) - len(job.late)
        self._metrics.corrected(len(job.late), anew)
        self._books.corrected(job.stream, correction.entries[correction.places], job.alerts)
        for reading, text in zip(job.late, job.answers, strict=True):
            _give(reading, text)

    def _again(self, stream: StreamKey, late: list[_Late], record: Records, attempts: int) -> None:
        """Begin a correction anew, unless that was in vain too often."""
        if attempts + 1 >= self._attempts:
            self._fail(late, _contended(stream))
        else:
            self._wait(stream, late, int(record["readings"]), attempts + 1)

    def _fail(self, late: Iterable[_Late], error: Exception) -> None:
        if isinstance(error, StoreUnavailable):
            log.warning("late readings not applied", error=str(error), cause=cause_of(error))
            if not isinstance(error, Contended):
                self._metrics.store_error("score")
        else:
            log.error("late readings not applied", exc_info=error)
        for reading in late:
            if not reading.done.done():
                reading.done.set_exception(error)


def _contended(stream: StreamKey) -> Contended:
    return Contended(f"other processes kept writing stream {stream.name}; send the readings again")


def _went_back(stream: StreamKey) -> Contended:
    return Contended(f"stream {stream.name} was deleted, or went back, meanwhile; send the readings again")


def _for_model(late: list[_Late], model: Model) -> list[_Late]:
    """Late readings of a stream in the channels of the model that it has."""
    if model.any_channels:
        channels = all_channels(_names(one) for one in late)
        return [_relaid(one, model, layout_of(channels, channels)) for one in late]
    return [
        one if one.batch.model is model else replace(one, batch=one.batch.moved([one.place], model), place=0)
        for one in late
    ]


def _names(late: _Late) -> tuple[str, ...]:
    """The channels of the list that a late reading was laid out by; of one for another model, those that it has."""
    return tuple(late.batch.sent_at(late.place)) if late.batch.layouts is None else late.layout.channels


def _give(late: _Late, answer: Answer) -> None:
    if not late.done.done():
        late.done.set_result(answer)


def _step(model: Model, jobs: list[_Job], most: int) -> int:
    """Replay up to so many readings of each stream; returns how many in all."""
    records = np.concatenate([job.correction.record for job in jobs])
    parts = [job.correction.part(most) for job in jobs]
    layouts = [job.layout for job in jobs] if model.any_channels else None
    asked = together([job.asked for job in jobs], len(model.detector.channels))

    def marked(entries: Entries, rows: NDArray[np.intp]) -> None:
        own = [(at, rules) for at, row in enumerate(rows.tolist()) if (rules := jobs[row].rules) is not None]
        mark(entries, own, [jobs[row].layout.model for row in rows.tolist()])

    for row, entries in enumerate(model.stepper.replay(records, parts, layouts, asked, marked)):
        jobs[row].correction.advance(records[row : row + 1].copy(), entries, jobs[row].layout, jobs[row].seed)
    return sum(map(len, parts))


def _follow(
    model: Model, jobs: list[_Job], loaded: LoadedBatch, packed: Sequence[bytes | None], rings: dict[int, bytes]
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
        elif job.correction.follow(loaded.records[row : row + 1], _history(model, ring, loaded.layouts[row], job.seed)):
            job.packed = packed[row]
        else:
            vain.add(row)
    short = [jobs[row] for row in rings if row not in vain and jobs[row].correction.left <= SLICE_STEPS]
    if short:
        _step(model, short, SLICE_STEPS)
    return vain


def _history(model: Model, ring: bytes, layout: Layout, seed: int) -> Entries:
    return history.gathered(model.stepper.read_history(ring, layout, seed), layout)


def _writes(model: Model, jobs: list[_Job], loaded: LoadedBatch, rows: list[int], now_ms: int) -> Writes:
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
        begun = job.correction.begun() if job.rules is None else entries[:0]
        job.alerts = [alert_of(job.stream, entry, job.layout.model, corrected=True) for entry in begun]
        writes.alerts += [(at, alert) for alert in job.alerts]
        writes.earlier.update({(at, slot): kept for slot, kept in job.correction.earlier.items()})
        late = job.correction.entries[job.correction.places]
        outcomes = Outcomes([job.stream] * len(late), late, [job.layout.model] * len(late), replayed=False)
        job.answers = encode([reading.batch.encoders[reading.place] for reading in job.late], outcomes)
    records = np.concatenate([jobs[row].correction.record for row in rows])
    ruled = np.array([jobs[row].rules is not None for row in rows])
    records["status"] |= np.where(ruled, np.uint8(state.HELD), loaded.records["status"][rows] & state.HELD)
    writes.records = state.pack(records, [jobs[row].layout for row in rows], [jobs[row].seed for row in rows])
    was_open, is_open = (detector.is_open(of["detector"]) for of in (loaded.records[rows], records))
    writes.opened = {writes.streams[at] for at in np.flatnonzero(is_open & ~ruled)}
    writes.closed = {writes.streams[at] for at in np.flatnonzero(was_open & ~is_open & ~ruled)}
    return writes


def _ruled(done: Sequence[tuple[int, _Job]]) -> list[Corrected]:
    """The streams whose incidents go by rules, where something counts that did not."""
    return [
        Corrected(at, job.stream, job.layout, job.seed, words(job.asked), job.rules, job.correction)
        for at, job in done
        if job.rules is not None and job.correction.counts_anew()
    ]


def _back(
    done: Sequence[tuple[int, _Job]], loaded: LoadedBatch, rows: Sequence[int]
) -> list[tuple[int, StreamKey, int, int]]:
    """The streams that had been found silent, see Recorder.back: a late reading is a sign of life, too."""
    before = loaded.records[rows]
    silent = (before["status"] & state.SILENT) > 0
    return [(at, job.stream, int(before["readings"][at]), int(before["last_ms"][at])) for at, job in done if silent[at]]


def _alike(late: list[_Late]) -> list[_Late]:
    """Late readings of a stream laid out alike, though its list of channels may have grown between them."""
    model = late[0].batch.model
    if not model.any_channels or len({id(one.batch.layouts and one.layout) for one in late}) == 1:
        return late
    return _for_model(late, model)


def _relaid(late: _Late, model: Model, layout: Layout) -> _Late:
    """A late reading for a model that takes any channels, in a layout of its stream."""
    if late.batch.layouts is not None and late.layout is layout and late.batch.model is model.sized(len(layout.model)):
        return late
    return replace(late, batch=late.batch.relaid(late.place, model, layout), place=0)


def _by_model(owned: Iterable[tuple[T, _Late]]) -> list[tuple[Model, list[T]]]:
    """Things by the model of a late reading of each."""
    groups: dict[int, tuple[Model, list[T]]] = {}
    for thing, late in owned:
        groups.setdefault(id(late.batch.model), (late.batch.model, []))[1].append(thing)
    return list(groups.values())
