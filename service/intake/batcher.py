"""Batcher: gathers waiting readings of all requests into batches, and hands each request its own results."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import structlog

from gatewatch.service.core.contention import ContentionBackoff
from gatewatch.service.core.readings import Readings
from gatewatch.service.core.scorer import Answer
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.doors.json_readings import Sent, Wire
from gatewatch.service.doors.json_results import answer
from gatewatch.service.errors import (
    Contended,
    ForeignValue,
    ServiceError,
    StoreUnavailable,
    TooLarge,
    TooManyWaiting,
    cause_of,
)
from gatewatch.service.observability.metrics import Metrics

log = structlog.get_logger(__name__)

MAX_PER_STREAM = 32
"""Most readings of one stream in a batch. Each takes a step of its own, half a millisecond, while others wait."""

BATCH_COST = 32
"""Readings; a batch of one takes as long as one of so many more that are of different streams (measured)."""

WORKERS = 2
"""Most batches under way at a time."""

SECOND_BATCH_MIN = 256
"""Readings; a second batch is begun only where so many wait: smaller ones save more by sharing what a batch costs."""

PACE_GAIN = 0.2
"""How much the last batch counts in the time that a reading takes."""


@dataclass(eq=False)
class _Submission:
    """What one request sent, the answers it has so far, and the future it waits for.

    Attributes:
        answers: of what stands in `sent`, in its order; empty before the first of them.
        taken: how many were taken into batches, from the first on.
        answered: how many have their answer.
        order: once it had to be divided, where what stands in `sent` stood in the request.
        ahead: how many are in the way of a request that comes later, which passes those of a stream beyond MAX_PER_STREAM.
    """

    sent: list[Sent]
    done: asyncio.Future[list[str]]
    since: float
    answers: list[str] = field(default_factory=list)
    taken: int = 0
    answered: int = 0
    order: list[int] | None = None
    ahead: int = 0

    def answer(self, start: int, answers: list[str]) -> None:
        """Note the answers of a part; with the last one, whoever waits gets them all in the order of the request."""
        self.answered += len(answers)
        if len(answers) == len(self.sent):
            self.answers = answers
        else:
            self.answers = self.answers or [""] * len(self.sent)
            self.answers[start : start + len(answers)] = answers
        if self.answered < len(self.sent) or self.done.done():
            return
        if self.order is None:
            self.done.set_result(self.answers)
        else:
            self.done.set_result([text for _, text in sorted(zip(self.order, self.answers, strict=True))])


_Part = tuple[_Submission, int, int]
"""What a batch takes of a submission: from one place up to another."""


class Scores(Protocol):
    """What is asked of a scorer."""

    turns: ContentionBackoff

    async def score_batch(self, batch: Readings) -> list[Answer]:
        """Score readings; see Scorer."""

    async def store_answers(self) -> bool:
        """Whether Redis answers at once."""


class Batcher:
    """Takes what waits into batches; what arrives meanwhile is the next one. There is no waiting window.

    Where many readings wait, two batches are under way, never with a stream in common: while Redis saves the one, the
    other is computed.
    """

    def __init__(
        self,
        wire: Wire,
        scorer: Scores,
        metrics: Metrics,
        batch_readings: int,
        waiting_readings: int,
        waiting_ms: float,
    ) -> None:
        self._wire = wire
        self._scorer = scorer
        self._metrics = metrics
        self._batch_readings = batch_readings
        self._waiting_readings = waiting_readings
        self._waiting_s = waiting_ms / 1000
        self._reading_s = 0.0  # what one of many readings takes, of late
        self._failed_at: float | None = None  # since when Redis failed every batch
        self._asked = 0  # lanes that wait to hear whether Redis answers at all
        self._queue: deque[_Submission] = deque()
        self._waiting = 0
        self._ahead = 0  # of those that wait, how many are in the way of a request that comes now
        self._under_way: list[set[StreamKey]] = []  # the streams of each batch
        self._blocked = False  # nothing of what waits can be taken before a batch ends
        self._ended = 0.0  # when the last batch did
        self._idle: list[asyncio.Future[None]] = []  # a lane without work waits for one of these
        self._stopping = False
        self._lanes: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to score; needs a running event loop."""
        self._lanes = [asyncio.create_task(self._work(), name=f"batcher {lane}") for lane in range(WORKERS)]

    async def stop(self) -> None:
        """Finish what was taken, then end."""
        self._stopping = True
        while self._idle:
            self._wake()
        for lane in self._lanes:
            await lane

    def check_room(self, readings: int = 1) -> None:
        """Raise TooManyWaiting if so many readings may not wait now: asked before a body is read, decoded and taken.

        More than may ever wait are too large: sent again they would be refused for ever.
        """
        if readings > self._waiting_readings:
            raise TooLarge(
                f"{readings} readings in one request; at most {self._waiting_readings} may wait to be scored "
                "(GATEWATCH_WAITING_READINGS): send them in several"
            )
        if self._waiting + readings > self._waiting_readings:
            raise TooManyWaiting(
                f"{self._waiting} readings wait to be scored; at most {self._waiting_readings} may wait: "
                "send again after the time in Retry-After"
            )
        ahead_s = self._ahead * self._reading_s
        if ahead_s > self._waiting_s:
            raise TooManyWaiting(
                f"the {self._ahead} readings that wait to be scored take {ahead_s:.1f} s; at most "
                f"{self._waiting_s:g} s may be ahead of a request (GATEWATCH_WAITING_MS): "
                "send again after the time in Retry-After"
            )

    def take(self, sent: list[Sent]) -> asyncio.Future[list[str]]:
        """Have scored what a request sent; it may share batches with others. Answers come in the order given.

        A caller that hangs up leaves its readings in the batch: they are applied, and answered again when sent again.

        Raises:
            TooLarge: more readings than may ever wait.
            TooManyWaiting: the readings that wait already leave no room for these.
            StoreUnavailable: the service stops. The future raises it when Redis failed; some of the readings may have
                been applied.
        """
        submission = _Submission(sent, asyncio.get_running_loop().create_future(), time.perf_counter())
        if not sent:
            submission.done.set_result([])
            return submission.done
        if self._stopping:
            raise StoreUnavailable("the service is stopping; send the readings again")
        self.check_room(len(sent))
        self._queue.append(submission)
        self._waiting += len(sent)
        submission.ahead = len(sent)
        if len(sent) > MAX_PER_STREAM:
            submission.ahead = sum(min(count, MAX_PER_STREAM) for count in Counter(self._wire.keys_of(sent)).values())
        self._ahead += submission.ahead
        if self._may_begin():
            self._wake()
        return submission.done

    async def submit(self, sent: list[Sent]) -> list[str]:
        """The answers to what was sent, when there are all of them; see `take`."""
        return await self.take(sent)

    async def _work(self) -> None:
        """One lane: scores a batch after the other, beside the other lanes."""
        while True:
            self._metrics.waiting.set(self._waiting)
            if not self._may_begin():
                if self._stopping and not self._queue:
                    self._wake()  # the next lane, so that it ends as well
                    return
                await self._rest()
                continue
            taken: list[_Part] = []
            began = time.perf_counter()
            try:
                resting = self._scorer.turns.resting(asyncio.get_running_loop().time())
                taken = self._take(set(resting).union(*self._under_way))
                if taken:
                    await self._score_and_answer(taken)
                else:
                    self._blocked = bool(self._under_way)
                    await self._rest(None if self._blocked else min(resting.values()))
            except Exception as error:
                await self._fail([submission for submission, _, _ in taken] or list(self._queue), error, began)

    def _may_begin(self) -> bool:
        if self._asked:
            return False
        if self._under_way:
            return self._waiting >= SECOND_BATCH_MIN and len(self._under_way) < WORKERS and not self._blocked
        return bool(self._queue)

    def _wake(self) -> None:
        """Have a lane without work look again."""
        if self._idle:
            lane = self._idle.pop()
            if not lane.done():
                lane.set_result(None)

    async def _rest(self, until: float | None = None) -> None:
        """Wait to be woken, but not beyond a time of the event loop."""
        woken = asyncio.get_running_loop().create_future()
        self._idle.append(woken)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await woken
        if woken in self._idle:
            self._idle.remove(woken)

    async def _score_and_answer(self, taken: list[_Part]) -> None:
        """Score a batch and hand out its answers. Meanwhile nobody else takes anything of its streams."""
        sent = [item for submission, start, stop in taken for item in submission.sent[start:stop]]
        streams = {key for key in self._wire.keys_of(sent) if key is not None}
        self._under_way.append(streams)
        if self._may_begin():
            self._wake()
        began = time.perf_counter()
        try:
            self._metrics.batch(len(sent))
            answers = await self._score(sent)
            now = time.perf_counter()
            self._note_pace((now - max(began, self._ended)) / (len(sent) + BATCH_COST))
            self._ended, self._failed_at = now, None
        finally:
            self._under_way = [others for others in self._under_way if others is not streams]
            self._blocked = False
        at = 0
        for submission, start, stop in taken:
            self._hand_out(submission, start, answers[at : at + stop - start])
            at += stop - start

    def _hand_out(self, submission: _Submission, start: int, answers: list[Answer]) -> None:
        """Give a submission the answers of a part, those that come later when they do; or the error it met."""
        texts: dict[int, str] = {}
        for place, one in enumerate(answers, start):
            if isinstance(one, str):
                texts[place] = one
            elif isinstance(one, ServiceError):
                self._refuse(submission, one)
            else:
                one.add_done_callback(partial(self._come_later, submission, place))
        if len(texts) == len(answers):
            submission.answer(start, list(texts.values()))
            return
        for place, text in texts.items():
            submission.answer(place, [text])

    def _come_later(self, submission: _Submission, place: int, text: asyncio.Future[str]) -> None:
        if text.cancelled():
            return
        error = text.exception()
        if error is None:
            submission.answer(place, [text.result()])
        else:
            self._refuse(submission, error)

    def _refuse(self, submission: _Submission, error: BaseException) -> None:
        """Fail a request for what concerns one of its streams; others of its batch have their answers."""
        if submission.taken < len(submission.sent) and submission in self._queue:
            self._queue.remove(submission)
            self._waiting -= len(submission.sent) - submission.taken
            self._ahead -= submission.ahead
        _give([submission], error)

    def _note_pace(self, reading_s: float) -> None:
        self._reading_s += (reading_s - self._reading_s) * (PACE_GAIN if self._reading_s else 1.0)

    async def _score(self, sent: list[Sent]) -> list[Answer]:
        """The answers of a batch: those of its readings, and those of what is none."""
        with self._metrics.stage("parse"):
            results, readings = self._wire.columns(sent, int(time.time() * 1000))
        if len(readings):
            scored = await self._scorer.score_batch(readings)
        else:
            scored = []
            await asyncio.sleep(0)  # others have their turn between thousands of rejections
        if len(scored) == len(results):
            return scored
        self._metrics.answered("rejected", len(results) - len(scored))
        rest = iter(scored)
        return [next(rest) if result is None else answer(result) for result in results]

    def _take(self, waiting_streams: set[StreamKey]) -> list[_Part]:
        """The next batch: whole submissions as long as they fit, or a part of one that is large or deep.

        What is left of one waits for the next batch, and so does everything of the same streams behind it; others pass.

        Args:
            waiting_streams: those that rest or are under way, of which nothing is taken.
        """
        taken: list[_Part] = []
        left: deque[_Submission] = deque()
        room, depth = self._batch_readings, Counter[StreamKey | None]()
        while self._queue and room > 0:
            submission = self._queue.popleft()
            start = submission.taken
            streams = self._wire.keys_of(submission.sent[start:])
            if not waiting_streams.isdisjoint(streams):
                waiting_streams.update(filter(None, streams))
                left.append(submission)
                continue
            if taken and len(streams) > room:
                left.append(submission)
                break
            size = _size_of_part(streams, room, depth)
            if size == 0:
                waiting_streams.update(filter(None, streams))
                left.append(submission)
                continue
            if size < len(streams) and start == 0 and len(set(streams)) < len(streams):
                submission.order = self._wire.in_order(submission.sent)  # parts are in order only if the whole is
                submission.sent = [submission.sent[place] for place in submission.order]
                streams = self._wire.keys_of(submission.sent)
                size = _size_of_part(streams, room, depth)
            submission.taken += size
            self._ahead -= max(0, submission.ahead - (len(streams) - size))
            submission.ahead = min(submission.ahead, len(streams) - size)
            depth.update(streams[:size])
            room -= size
            taken.append((submission, start, start + size))
            if size < len(streams):
                waiting_streams.update(filter(None, streams[size:]))
                left.append(submission)
        self._queue.extendleft(reversed(left))
        if not taken:
            return taken
        self._waiting -= sum(stop - start for _, start, stop in taken)
        self._metrics.waited(time.perf_counter() - min(submission.since for submission, _, _ in taken))
        return taken

    async def _fail(self, submissions: list[_Submission], error: Exception, began: float) -> None:
        """Fail every request of a batch and, when Redis is away, all that wait: they would wait as long in vain.

        It is away when it does not answer a PING now, or has failed a batch before this one began. Else it was a
        moment's stall, which fails the batches that were under way together. No batch begins before that is known:
        what it takes would wait for Redis twice.
        """
        if isinstance(error, StoreUnavailable):
            log.warning("batch not scored", error=str(error), cause=cause_of(error))
        else:
            log.error("batch not scored", exc_info=error)
        if isinstance(error, StoreUnavailable) and not isinstance(error, Contended):
            self._metrics.store_error("score")
        if isinstance(error, ForeignValue):
            self._metrics.foreign_value()
        store_failed = isinstance(error, StoreUnavailable) and not isinstance(error, (Contended, ForeignValue))
        for submission in submissions:
            self._refuse(submission, error)
        if not store_failed:
            self._failed_at = None
            return
        if self._failed_at is None:
            self._failed_at = time.perf_counter()
        if self._queue and (self._failed_at <= began or not await self._store_answers()):
            _give(self._queue, error)
            self._queue.clear()
            self._waiting = self._ahead = 0

    async def _store_answers(self) -> bool:
        self._asked += 1
        try:
            return await self._scorer.store_answers()
        finally:
            self._asked -= 1


def _give(submissions: Iterable[_Submission], error: BaseException) -> None:
    for submission in submissions:
        if not submission.done.done():
            submission.done.set_exception(error)


def _size_of_part(streams: list[StreamKey | None], room: int, depth: Counter[StreamKey | None]) -> int:
    """How many of a submission's readings a batch may take: `room`, and no more than MAX_PER_STREAM of one stream in the batch.

    Args:
        streams: of the readings that are left of it.
        depth: how many readings of each stream the batch has already.
    """
    part = streams[:room]
    if depth.keys().isdisjoint(part) and len(set(part)) == len(part):
        return len(part)
    seen = Counter[StreamKey]()
    for at, stream in enumerate(part):
        if stream is None:  # a rejection takes no step
            continue
        seen[stream] += 1
        if seen[stream] + depth[stream] > MAX_PER_STREAM:
            return at
    return len(part)
