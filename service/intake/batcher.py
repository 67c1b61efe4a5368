"""Batcher: the workers that score what waits, batch after batch; and what a failure means for whoever waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import structlog

from gatewatch.service.clock import Clock
from gatewatch.service.core.contention import ContentionBackoff
from gatewatch.service.core.outcomes import Answer, Encoder
from gatewatch.service.core.readings import Part, Readings
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import (
    ForeignValue,
    ModelFailed,
    PartlyUnavailable,
    StoreUnavailable,
    TooManyWaiting,
    cause_of,
    concerns_all,
)
from gatewatch.service.intake.admission import Admission
from gatewatch.service.intake.queue import Queue, Submission, Taken
from gatewatch.service.observability.metrics import Metrics

if TYPE_CHECKING:
    from gatewatch.service.observability.traces import Traces

log = structlog.get_logger(__name__)

WORKERS: Final = 2
"""Most batches under way at a time."""

SECOND_BATCH_MIN = 256
"""Readings; a second batch is begun only where so many wait: smaller ones save more by sharing what a batch costs."""


LONG_S: Final = 0.05
"""A batch that is under way for so long is not waited for: what came meanwhile is scored beside it, however little it
is. A batch takes as long where much of it is strange, and incidents begin."""


GATHER_S: Final = 0.002
GATHER_SHARE: Final = 0.25
"""Whoever was just answered mostly sends again at once. The next batch waits for them so long, or for such a share of
what the last one took, if that is less: else senders fall into two groups that take turns, in batches of half the size.
With it a reading of 128 connections takes 0.8 of the CPU time (benchmarks/results/2026-11-29-processes.md)."""


class _UnderWay(NamedTuple):
    """The streams of a batch, and since when it is scored."""

    streams: set[StreamKey]
    since: float


class Scores(Protocol):
    """What is asked of a scorer."""

    async def score_batch(self, parts: Sequence[Part]) -> list[Answer]:
        """The answers to the readings of parts, in their order; see Scorer."""

    async def ping(self) -> bool:
        """Whether the store answers at once."""


class Batcher:
    """Takes what waits into batches; what arrives meanwhile is the next one.

    There is no waiting window for whoever comes first. Only behind another batch is there one, see GATHER_S.

    Where many readings wait, or a batch takes long, two are under way, never with a stream in common: while the store
    saves the one, the other is computed.
    """

    def __init__(
        self,
        scorer: Scores,
        backoff: ContentionBackoff,
        queue: Queue,
        admission: Admission,
        metrics: Metrics,
        clock: Clock,
        traces: Traces | None = None,
    ) -> None:
        """`traces`: makes a span of each batch; None for none."""
        self._scorer = scorer
        self._backoff = backoff
        self._queue = queue
        self._admission = admission
        self._metrics = metrics
        self._clock = clock
        self._traces = traces
        self._failed_at: float | None = None  # since when the store failed every batch
        self._asked = 0  # workers that wait to hear whether the store answers at all
        self._under_way: list[_UnderWay] = []  # each batch, in their order
        self._timer: asyncio.TimerHandle | None = None  # while something waits behind a batch
        self._blocked = False  # nothing of what waits can be taken before a batch ends
        self._expected = 0  # requests that were just answered, and may send again at once
        self._gathering: asyncio.TimerHandle | None = None  # while these are waited for
        self._ended = 0.0  # when the last batch did whose pace was noted
        self._idle: list[asyncio.Future[None]] = []  # a worker without work waits for one of these
        self._stopping = False
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to score; needs a running event loop."""
        self._workers = [asyncio.create_task(self._work(), name=f"batcher {number}") for number in range(WORKERS)]

    async def stop(self) -> None:
        """Finish what was taken, then end."""
        self._stopping, self._expected = True, 0
        while self._idle:
            self._wake()
        for worker in self._workers:
            await worker

    def cancel(self) -> None:
        """End at once, whatever is under way."""
        for worker in self._workers:
            worker.cancel()

    def check_room(self, tenant: str, readings: int = 1) -> None:
        """Raise TooManyWaiting or TooLarge if so many readings of a tenant may not wait now; see Admission."""
        self._admission.check(tenant, readings, self._queue)

    def take(self, readings: Readings, encoder: Encoder) -> asyncio.Future[list[Answer]]:
        """Have scored what a request sent; it may share batches with others. Answers come in the order given.

        A caller that hangs up leaves its readings in the batch: they are applied, and answered again when sent again.

        Raises:
            TooLarge: more readings than may ever wait.
            TooManyWaiting: the readings that wait already leave no room for these.
            StoreUnavailable: the service stops. The future raises it when the store failed; some of the readings may
                have been applied.
        """
        submission = Submission(readings, encoder, asyncio.get_running_loop().create_future(), self._clock.monotonic())
        if self._traces is not None:
            submission.span = self._traces.current()
        size = len(readings.streams)
        if not size:
            submission.done.set_result([])
            return submission.done
        if self._stopping:
            raise StoreUnavailable("the service is stopping; send the readings again")
        self.check_room(submission.tenant, size)
        self._queue.add(submission)
        if self._expected:
            self._expected -= 1
        self._look()
        return submission.done

    async def _work(self) -> None:
        """One worker: scores a batch after the other, beside the other workers."""
        while True:
            self._metrics.waiting.set(self._queue.waiting)
            if not self._may_begin():
                if self._stopping and not self._queue:
                    self._wake()  # the next worker, so that it ends as well
                    return
                await self._rest()
                continue
            taken: list[Taken] = []
            began = self._clock.monotonic()
            try:
                resting = self._backoff.resting(began)
                taken = self._queue.take(set(resting).union(*(one.streams for one in self._under_way)))
                if taken:
                    await self._score_and_answer(taken, began)
                else:
                    self._blocked = bool(self._under_way)
                    await self._rest(None if self._blocked else min(resting.values()) - began)
            except Exception as error:
                await self._fail([submission for submission, _, _ in taken] or self._queue.clear(), error, began)

    def _may_begin(self) -> bool:
        if self._asked:
            return False
        if self._under_way:
            if self._blocked or len(self._under_way) == WORKERS:
                return False
            is_long = self._clock.monotonic() - self._under_way[0].since >= LONG_S
            return self._queue.waiting >= (1 if is_long else SECOND_BATCH_MIN)
        return bool(self._queue) and (not self._expected or self._queue.waiting >= SECOND_BATCH_MIN)

    def _gather(self, requests: int, took_s: float) -> None:
        """Have the next batch wait a little for those who were just answered."""
        if self._gathering is not None:
            self._gathering.cancel()
        self._expected = 0 if self._stopping else requests
        loop = asyncio.get_running_loop()
        self._gathering = loop.call_later(min(GATHER_S, GATHER_SHARE * took_s), self._end_gathering)

    def _end_gathering(self) -> None:
        self._expected = 0
        self._look()

    def _look(self) -> None:
        """Have a batch begun if one may; if not yet, look again while something waits."""
        if self._may_begin():
            self._wake()
        elif self._under_way and self._queue and self._timer is None:
            self._look_again()

    def _look_again(self) -> None:
        """Look soon whether what waits behind a batch may begin beside it, though nothing comes or ends by then."""

        def look() -> None:
            self._timer = None
            if self._under_way and self._queue:
                self._blocked = False  # other streams may have come since
                if self._may_begin():
                    self._wake()
                self._look_again()

        self._timer = asyncio.get_running_loop().call_later(LONG_S, look)

    def _wake(self) -> None:
        """Have a worker without work look again."""
        if self._idle:
            self._wake_one(self._idle[-1])

    def _wake_one(self, worker: asyncio.Future[None]) -> None:
        if worker in self._idle:
            self._idle.remove(worker)
            if not worker.done():  # as it is where the worker was cancelled
                worker.set_result(None)

    async def _rest(self, most_s: float | None = None) -> None:
        """Wait to be woken, but not longer than so many seconds."""
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        self._idle.append(woken)
        timer = None if most_s is None else loop.call_later(most_s, self._wake_one, woken)
        try:
            await woken
        finally:
            if timer is not None:
                timer.cancel()

    async def _score_and_answer(self, taken: list[Taken], began: float) -> None:
        """Score a batch and hand out its answers. Meanwhile nobody else takes anything of its streams."""
        parts = [Part(one.readings, start, stop, one.encoder) for one, start, stop in taken]
        size = sum(stop - start for _, start, stop in taken)
        streams = {stream for part in parts for stream in part.readings.streams[part.start : part.stop]}
        own, beside = _UnderWay(streams, began), bool(self._under_way) and size < SECOND_BATCH_MIN
        self._under_way.append(own)
        self._look()
        try:
            self._metrics.waited(began - min(submission.since for submission, _, _ in taken))
            self._metrics.batch(size)
            with self._traced(taken, size):
                answers = await self._scorer.score_batch(parts)
            now = self._clock.monotonic()
            self._failed_at = None
            if not beside:  # a small one took the time of the one beside it
                self._admission.note_pace(size, now - max(began, self._ended))
                self._ended = now
        finally:
            self._under_way = [other for other in self._under_way if other is not own]
            self._blocked = False
        at, kinds, met = 0, {*map(type, answers)}, dict[int, Exception]()
        whole = not any(issubclass(kind, (Exception, asyncio.Future)) for kind in kinds)
        for submission, start, stop in taken:
            part = answers[at : at + stop - start]
            if whole:
                submission.answer(start, part)
            else:
                self._hand_out(submission, start, part, met)
            at += stop - start
        for error in met.values():
            self._note(error)
        self._gather(sum(submission.done.done() for submission, _, _ in taken), now - began)

    def _traced(self, taken: list[Taken], readings: int) -> contextlib.AbstractContextManager[None]:
        if self._traces is None:
            return contextlib.nullcontext()
        return self._traces.batch([submission.span for submission, _, _ in taken], readings)

    def _hand_out(self, submission: Submission, start: int, answers: list[Answer], met: dict[int, Exception]) -> None:
        """Give a submission the answers of a part, those that come later when they do; or the error it met.

        Args:
            met: gets the errors, each once.
        """
        for place, answer in enumerate(answers, start):
            if isinstance(answer, Exception):
                met[id(answer)] = answer
                self._refuse(submission, answer)
            elif isinstance(answer, asyncio.Future):
                answer.add_done_callback(partial(self._come_later, submission, place))
            else:
                submission.answer(place, [answer])

    def _come_later(self, submission: Submission, place: int, later: asyncio.Future[Answer]) -> None:
        if later.cancelled():
            return
        error = later.exception()
        if error is None:
            submission.answer(place, [later.result()])
        else:
            self._refuse(submission, error)

    def _refuse(self, submission: Submission, error: BaseException) -> None:
        """Fail a request for what concerns one of its streams; others of its batch have their answers."""
        self._queue.remove(submission)
        submission.fail(error)

    async def _fail(self, submissions: Iterable[Submission], error: Exception, began: float) -> None:
        """Fail every request of a batch and, when the store is away, all that wait: they would wait as long in vain.

        It is away when it does not answer a PING now, or has failed a batch before this one began. Else it was a
        moment's stall, which fails the batches that were under way together. No batch begins before that is known:
        what it takes would wait for the store twice.
        """
        self._note(error)
        for submission in submissions:
            self._refuse(submission, error)
        if not concerns_all(error):
            self._failed_at = None
            return
        if self._failed_at is None:
            self._failed_at = self._clock.monotonic()
        if self._queue and (self._failed_at <= began or not await self._store_answers()):
            for submission in self._queue.clear():
                submission.fail(error)

    def _note(self, error: Exception) -> None:
        """Log and count why readings of a batch have no answers."""
        if isinstance(error, TooManyWaiting):  # late readings, which are not of the batch
            return
        if isinstance(error, StoreUnavailable) and not isinstance(error, ModelFailed):
            log.warning("readings not scored", error=str(error), cause=cause_of(error))
        else:
            log.error("readings not scored", exc_info=error)
        if isinstance(error, ForeignValue):
            self._metrics.foreign_value()
        if concerns_all(error) or isinstance(error, (ForeignValue, PartlyUnavailable)):
            self._metrics.store_error("score")

    async def _store_answers(self) -> bool:
        self._asked += 1
        try:
            return await self._scorer.ping()
        finally:
            self._asked -= 1
