"""Beside: readings that are no live ones, scored beside the batches: those of the past, and those that are only tried.

A request of them may be long, and nobody waits for it in a control room. So they go in chunks, off the event loop,
while batches go on. Of requests that wait together a chunk of each is scored together: a step of the network takes as
long for one stream as for many, so that a fleet has its past almost as soon as one stream.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from gatewatch.service.core.outcomes import Answer, Encoder, Refused
from gatewatch.service.core.readings import Part, Readings
from gatewatch.service.core.scorer import Scorer
from gatewatch.service.errors import ServiceError, TooManyWaiting
from gatewatch.service.intake.queue import size_of_part
from gatewatch.service.turns import Turns, has_room

CHUNK: Final = 512
"""Readings of a request; of one stream they take some 0.3 s, and what saves them is a hundredth of that."""

TOGETHER: Final = 32
"""Requests of which chunks are scored together."""


@dataclass(eq=False)
class _Request:
    """Readings of one model that wait, and their answers so far.

    Attributes:
        readings: each stream's in their order.
        order: where they stood as they were sent.
        most_per_stream: of a chunk.
        start: of the next chunk.
    """

    scorer: Scorer
    readings: Readings
    order: list[int]
    encoder: Encoder
    most_per_stream: int
    on_progress: Callable[[Sequence[Answer]], None]
    done: asyncio.Future[list[Answer]]
    start: int = 0
    answers: list[Answer] = field(default_factory=list)

    def next(self) -> Part:
        """The next chunk."""
        streams = self.readings.streams[self.start : self.start + CHUNK]
        stop = self.start + size_of_part(streams, CHUNK, Counter(), self.most_per_stream)
        return Part(self.readings, self.start, stop, self.encoder)

    def take(self, part: Part, answers: Sequence[Answer]) -> None:
        """Take the answers to a chunk; with the last one, or the first error, it is done."""
        error = next(filter(None, map(_error_in, answers)), None)
        if error is not None:
            self.fail(error)
            return
        self.answers += answers
        self.start = part.stop
        self.on_progress(answers)
        if self.start == len(self.readings) and not self.done.done():
            as_sent: list[Answer] = [None] * len(self.order)
            for place, answer in zip(self.order, self.answers, strict=True):
                as_sent[place] = answer
            self.done.set_result(as_sent)

    def fail(self, error: Exception) -> None:
        """Whoever waits gets an error instead."""
        if not self.done.done():
            self.done.set_exception(error)


class Beside:
    """Scores requests, with a bound on the readings that wait."""

    def __init__(self, most_readings: int) -> None:
        self._most = most_readings
        self._waiting = 0
        self._waiting_of = Counter[str]()
        self._requests = Turns[_Request]()
        self._worker: asyncio.Task[None] | None = None

    async def score(
        self,
        scorer: Scorer,
        requests: Sequence[Readings],
        encoder: Encoder,
        most_per_stream: int,
        on_progress: Callable[[Sequence[Answer]], None] = lambda _: None,
    ) -> list[list[Answer]]:
        """The answers to readings, each stream's applied in their order; see Scorer.

        Args:
            requests: the readings of each model.
            most_per_stream: of a chunk. What is sent again finds its answer only in the history as it is behind that.
            on_progress: is given the answers of each chunk.

        Raises:
            TooManyWaiting: others' leave no room for them.
            ServiceError: what one of the streams met, or the store; what was scored before that is.
        """
        size = sum(map(len, requests))
        tenant = next((one.streams[0].tenant for one in requests if len(one)), "")
        own_size, tenants = self._waiting_of[tenant], len({tenant, *self._waiting_of})
        if self._waiting and not has_room(size, own_size, self._waiting, tenants, self._most):
            raise TooManyWaiting(
                f"{self._waiting} readings of the past, or to be tried, wait; at most {self._most} may wait "
                "(GATEWATCH_WAITING_READINGS): send again after the time in Retry-After"
            )
        loop, own = asyncio.get_running_loop(), list[_Request]()
        for readings in requests:
            order = readings.places_in_order()
            how = (encoder, most_per_stream, on_progress, loop.create_future())
            own.append(_Request(scorer, readings.rearranged(order), order, *how))
        self._waiting += size
        self._waiting_of[tenant] += size
        try:
            for request in own:
                if request.order:
                    self._requests.add(tenant, request)
                else:
                    request.done.set_result([])
            if self._worker is None or self._worker.done():
                self._worker = asyncio.create_task(self._work(), name="beside")
            scored = await asyncio.gather(*(request.done for request in own), return_exceptions=True)
        finally:
            self._waiting -= size
            self._waiting_of[tenant] -= size
            self._waiting_of += Counter()  # which leaves those that are 0
            for request in own:
                self._requests.remove(tenant, request)
        for answers in scored:
            if isinstance(answers, BaseException):
                raise answers
        return [answers for answers in scored if not isinstance(answers, BaseException)]

    async def _work(self) -> None:
        """Score what waits, chunk after chunk, tenants and each one's requests in turn."""
        while self._requests:
            some = self._together()
            parts = [request.next() for _, request in some]
            try:
                scored = [await _settled(answer) for answer in await some[0][1].scorer.score_batch(parts)]
            except Exception as error:
                for _, request in some:
                    request.fail(error)
            else:
                at = 0
                for (_, request), part in zip(some, parts, strict=True):
                    size = part.stop - part.start
                    request.take(part, scored[at : at + size])
                    at += size
            for tenant, request in some:
                if not request.done.done():
                    self._requests.add(tenant, request)

    def _together(self) -> list[tuple[str, _Request]]:
        """Requests of which the next chunks are scored together: those whose turn it is, and who have one scorer."""
        some: list[tuple[str, _Request]] = []
        others: dict[str, list[_Request]] = {}
        while self._requests and len(some) < TOGETHER:
            tenant, request = self._requests.next()
            if some and request.scorer is not some[0][1].scorer:
                others.setdefault(tenant, []).append(request)
            else:
                some.append((tenant, request))
        for tenant, requests in others.items():
            self._requests.put_back(tenant, requests)
        return some


def _error_in(answer: Answer) -> Exception | None:
    """Why a reading has no answer, and is to be sent again."""
    if isinstance(answer, Refused):
        return answer.instead
    return answer if isinstance(answer, Exception) else None


async def _settled(answer: Answer) -> Answer:
    """An answer that is there; one that comes later is waited for, and may be an error of its stream."""
    try:
        return await answer if isinstance(answer, asyncio.Future) else answer
    except ServiceError as error:
        return error
