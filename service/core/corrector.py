"""Corrector: gives late readings their places, beside the batches, so that no other stream waits for it.

What a correction costs is known before it begins: the readings to be replayed. So much of it may wait, and no more.
Those under way are stepped together, a slice at a time and off the event loop; whoever is done leaves, whoever waits
joins. Nothing is held meanwhile: what a stream has seen since its correction began is replayed at its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from gatewatch.service.clock import Clock
from gatewatch.service.core.bookkeeping import Bookkeeping
from gatewatch.service.core.contention import ContentionBackoff
from gatewatch.service.core.correction_jobs import (
    SLICE_STEPS,
    CorrectionJob,
    back,
    corrected,
    follow,
    step,
    writes_of,
)
from gatewatch.service.core.late_readings import LateReading, WaitingReadings, alike, by_model, for_model, give, relaid
from gatewatch.service.core.loading import Loader
from gatewatch.service.core.outcomes import Answer
from gatewatch.service.core.placing import place
from gatewatch.service.core.readings import Batch, Model, Models
from gatewatch.service.core.records import Records
from gatewatch.service.core.store import Store
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import (
    Contended,
    ModelAway,
    ModelFailed,
    PartlyUnavailable,
    ServiceError,
    StoreUnavailable,
    TooManyWaiting,
    cause_of,
    other_channels,
)
from gatewatch.service.incidents.corrected import CorrectedIncidents
from gatewatch.service.incidents.writing import IncidentWriter
from gatewatch.service.observability.metrics import Metrics

log = structlog.get_logger(__name__)

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


class Corrector:
    """Corrects the streams of one scorer."""

    def __init__(
        self,
        models: Models,
        store: Store,
        loader: Loader,
        incidents: CorrectedIncidents,
        writer: IncidentWriter,
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
        self._writer = writer
        self._books = books
        self._metrics = metrics
        self._backoff = backoff
        self._clock = clock
        self._attempts = attempts
        self._waiting_s = waiting_ms / 1000
        self._waiting: dict[StreamKey, WaitingReadings] = {}
        self._joining: dict[StreamKey, WaitingReadings] = {}  # those whose corrections are being begun
        self._under_way: dict[StreamKey, CorrectionJob] = {}
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
        late = LateReading(batch, place, asyncio.get_running_loop().create_future())
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

    def _wait(self, stream: StreamKey, late: list[LateReading], readings: int, attempts: int = 0) -> None:
        """Have late readings of a stream that has so many readings wait."""
        waiting = self._waiting.setdefault(stream, WaitingReadings())
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
                waiting.late = alike(self._fitting(stream, waiting.late, waiting.late[0].batch.model))
            for model, streams in by_model((stream, waiting.late[0]) for stream, waiting in joining.items()):
                of_model = {stream: joining[stream] for stream in streams}
                try:
                    await self._begin(model, of_model)
                except Exception as error:
                    self._without(((stream, one.late, one.attempts) for stream, one in of_model.items()), error)
            self._joining = {}
            jobs = list(self._under_way.values())
            for model, of_jobs in by_model((job, job.late[0]) for job in jobs):
                going_on = [job for job in of_jobs if job.correction.left]
                try:
                    if going_on:
                        steps += await self._advance(model, going_on)
                    if done := [job for job in of_jobs if not job.correction.left]:
                        await self._save(model, done)
                except Exception as error:
                    for job in of_jobs:
                        self._under_way.pop(job.stream, None)
                    self._without(((job.stream, job.late, job.attempts) for job in of_jobs), error)
            if steps:
                step_s = (self._clock.monotonic() - began) / steps
                self._step_s += (step_s - self._step_s) * PACE_GAIN * min(1.0, steps / SLICE_STEPS)
            self._steps = sum(waiting.steps for waiting in self._waiting.values())
            self._steps += sum(job.correction.left for job in self._under_way.values())

    def _next(self) -> dict[StreamKey, WaitingReadings]:
        """Of the streams that wait those that there is room for, whoever waits longest first."""
        sizes = [len(job.correction.readings) for job in self._under_way.values()]
        long, room = max(sizes, default=0) > LONG, MOST_STEPS - sum(size for size in sizes if size <= LONG)
        joining: dict[StreamKey, WaitingReadings] = {}
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

    async def _begin(self, model: Model, joining: dict[StreamKey, WaitingReadings]) -> None:
        """Load streams and begin their corrections; readings that have no place get their answers."""
        streams, store = list(joining), self._store
        packed = await store.load(streams)
        layouts = [joining[stream].late[0].layout for stream in streams] if model.any_channels else None
        loaded = await self._loader.load(model, streams, packed, layouts=layouts)
        loaded.require_readable()
        if loaded.moved:
            for stream, waiting in joining.items():
                await self._wait_anew(stream, waiting.late, waiting.attempts, stream in loaded.moved)
            return
        for row in [*loaded.others, *loaded.before]:
            layout, waiting = loaded.others.get(row) or loaded.layouts[row], joining[streams[row]]
            laid = [relaid(reading, model, layout) for reading in waiting.late]
            self._again(streams[row], laid, int(loaded.records["readings"][row]), waiting.attempts)
            del joining[streams[row]]
        if loaded.others or loaded.before:
            if joining:
                await self._begin(model, joining)
            return
        earlier = await store.load_earlier(streams)
        rings = await store.load_histories(streams)
        late = [joining[stream].late for stream in streams]
        if not model.any_channels:
            late = [self._for_model(of_one, model) for of_one in late]
        begun = await asyncio.to_thread(
            lambda: [
                place(model, loaded, row, *of_one) for row, of_one in enumerate(zip(earlier, rings, late, strict=True))
            ]
        )
        now = await store.load(streams)
        for row, (stream, (correction, chosen, told, twins)) in enumerate(zip(streams, begun, strict=True)):
            attempts = joining[stream].attempts
            if now[row] != packed[row]:  # record, earlier records and history are of different times
                self._again(stream, joining[stream].late, int(loaded.records["readings"][row]), attempts)
                continue
            for reading, status, text in told:
                if isinstance(text, ServiceError):
                    self._fail([reading], text)
                    continue
                self._metrics.replayed(1) if status == "replayed" else self._metrics.answered(status, 1)
                give(reading, text)
            if correction is not None:
                asked = None if loaded.asked is None else loaded.asked.at([row])
                own = (loaded.layouts[row], loaded.seeds[row], correction, chosen, packed[row], attempts, asked)
                job = CorrectionJob(stream, *own, loaded.rules.get(row))
                self._under_way[stream] = job
            if twins:
                self._wait(stream, twins, int(loaded.records["readings"][row]))

    async def _wait_anew(self, stream: StreamKey, late: list[LateReading], attempts: int, moved: bool) -> None:
        """Have late readings wait again; with `moved`, for the model that their stream has by now."""
        if moved:
            try:
                model = await self._models.of(stream)
            except StoreUnavailable as error:
                self._fail(late, error)
                return
            late = self._for_model(self._fitting(stream, late, model), model)
            if not late:
                return
        self._wait(stream, late, late[0].batch.model.stepper.slots, attempts)

    def _for_model(self, late: list[LateReading], model: Model) -> list[LateReading]:
        """Late readings of a stream for the model that it has; those that lose some of their channels are counted."""
        given = for_model(late, model)
        anew = [one.batch for one, before in zip(given, late, strict=True) if one.batch is not before.batch]
        self._metrics.unknown_channels(sum(batch.partly_known for batch in anew))
        return given

    def _fitting(self, stream: StreamKey, late: list[LateReading], model: Model) -> list[LateReading]:
        """Those late readings that a model takes; the others get their errors."""
        fitting: list[LateReading] = []
        for one in late:
            if one.batch.fits(one.place, model):
                fitting.append(one)
            else:
                self._fail([one], other_channels(stream))
        return fitting

    async def _advance(self, model: Model, jobs: list[CorrectionJob]) -> int:
        """Replay a slice of corrections; returns how many readings that were."""
        return await asyncio.to_thread(step, model, jobs, max(1, SLICE_STEPS // len(jobs)))

    async def _save(self, model: Model, jobs: list[CorrectionJob]) -> None:
        """Save corrections that are done, and answer their readings.

        What a stream has seen meanwhile is replayed first; where that is much, the correction goes on instead.
        """
        began, streams = self._clock.monotonic(), [job.stream for job in jobs]
        async with self._store.begin(streams) as work:
            layouts = [job.layout for job in jobs] if model.any_channels else None
            loaded = await self._loader.load(model, streams, work.packed, layouts=layouts)
            loaded.require_readable()
            if loaded.moved:
                for job in jobs:
                    if job.stream in loaded.moved:
                        del self._under_way[job.stream]
                        await self._wait_anew(job.stream, job.late, job.attempts, moved=True)
                return
            moved = [row for row, job in enumerate(jobs) if work.packed[row] != job.packed]
            rings = await self._store.load_histories([streams[row] for row in moved]) if moved else []
            vain = await asyncio.to_thread(
                follow, model, jobs, loaded, work.packed, dict(zip(moved, rings, strict=True))
            )
            rows = [row for row, job in enumerate(jobs) if row not in vain and not job.correction.left]
            saved: list[bool] = []
            if rows:
                writes = await asyncio.to_thread(writes_of, model, jobs, loaded, rows, self._clock.unix_ms())
                done = [(at, jobs[row]) for at, row in enumerate(rows)]
                writes.incidents = await self._incidents.writes(model, loaded, corrected(done, rows), writes)
                writes.incidents += await self._writer.back(back(done, loaded, rows))
                self._writer.mute(writes)
                for row_at, job in done:
                    job.alerts = [alert for at, alert in writes.alerts if at == row_at]
                await work.send(writes)
                saved = await work.saved()
        for row in vain:
            del self._under_way[streams[row]]
            self._again(streams[row], jobs[row].late, int(loaded.records["readings"][row]), jobs[row].attempts)
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

    def _tell(self, job: CorrectionJob, cause: str | None) -> None:
        """Tell who waits, and those that count, that a correction was saved; `cause`: why its record was rebuilt."""
        correction = job.correction
        if cause is not None:
            self._metrics.rebuilt(cause)
        anew = len(correction.readings) - int(correction.places[0]) - len(job.late)
        self._metrics.corrected(len(job.late), anew)
        self._books.corrected(job.stream, correction.entries[correction.places], job.alerts)
        for reading, text in zip(job.late, job.answers, strict=True):
            give(reading, text)

    def _without(self, late: Iterable[tuple[StreamKey, list[LateReading], int]], error: Exception) -> None:
        """An error fails the streams that it affects, all where it does not say; the others begin anew.

        Args:
            late: streams, their late readings, and how often those were tried.
        """
        failed: list[LateReading] = []
        for stream, of_stream, attempts in late:
            waiting = [one for one in of_stream if not one.done.done()]
            if not waiting:
                continue
            if isinstance(error, PartlyUnavailable) and not error.affects(stream):
                self._again(stream, waiting, waiting[0].batch.model.stepper.slots, attempts)
            else:
                failed += waiting
        if failed:
            self._fail(failed, error)

    def _again(self, stream: StreamKey, late: list[LateReading], readings: int, attempts: int) -> None:
        """Begin a correction anew, unless that was in vain too often."""
        if attempts + 1 >= self._attempts:
            self._fail(late, _contended(stream))
        else:
            self._wait(stream, late, readings, attempts + 1)

    def _fail(self, late: Iterable[LateReading], error: Exception) -> None:
        if isinstance(error, StoreUnavailable) and not isinstance(error, ModelFailed):
            log.warning("late readings not applied", error=str(error), cause=cause_of(error))
            if not isinstance(error, (Contended, ModelAway)):
                self._metrics.store_error("score")
        else:
            log.error("late readings not applied", exc_info=error)
        for reading in late:
            if not reading.done.done():
                reading.done.set_exception(error)


def _contended(stream: StreamKey) -> Contended:
    return Contended(f"other processes kept writing stream {stream.name}; send the readings again")
