"""Queue: the submissions that wait, and what the next batch takes of them. Pure: nothing waits and no time passes."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from gatewatch.service.core.outcomes import Answer, Encoder
from gatewatch.service.core.readings import Readings
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.turns import Turns, has_room

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

MAX_PER_STREAM: Final = 32
"""Most readings of one stream in a batch. Each takes a step of its own, half a millisecond, while others wait."""


@dataclass(eq=False)
class Submission:
    """What one request sent, the answers it has so far, and the future it waits for.

    Attributes:
        readings: what was sent and can be scored.
        encoder: who writes its answers.
        since: when it came.
        ahead: how many are in the way of a request that comes later, which passes those of a stream beyond
            MAX_PER_STREAM.
        answers: to `readings`, in their order; empty before the first of them.
        taken: how many were taken into batches, from the first on.
        answered: how many have their answer.
        order: once it had to be divided, where the readings stood in the request.
        span: of the request, where that is traced.
    """

    readings: Readings
    encoder: Encoder
    done: asyncio.Future[list[Answer]]
    since: float
    ahead: int = 0
    answers: list[Answer] = field(default_factory=list)
    taken: int = 0
    answered: int = 0
    order: list[int] | None = None
    span: SpanContext | None = None

    @property
    def tenant(self) -> str:
        """Whose readings these are: a request is of one tenant."""
        return self.readings.streams[0].tenant

    def answer(self, start: int, answers: list[Answer]) -> None:
        """Note the answers of a part; with the last one, whoever waits gets them all in the order of the request."""
        size = len(self.readings.streams)
        self.answered += len(answers)
        if len(answers) == size:
            self.answers = answers
        else:
            self.answers = self.answers or [None] * size
            self.answers[start : start + len(answers)] = answers
        if self.answered < size or self.done.done():
            return
        if self.order is not None:
            given = self.answers
            self.answers = [None] * len(given)
            for place, answer in zip(self.order, given, strict=True):
                self.answers[place] = answer
        self.done.set_result(self.answers)

    def fail(self, error: BaseException) -> None:
        """Whoever waits gets an error instead."""
        if not self.done.done():
            self.done.set_exception(error)

    def put_in_order(self) -> None:
        """Have each stream's readings in their order, so that parts are in order too."""
        self.order = self.readings.places_in_order()
        self.readings = self.readings.rearranged(self.order)


class Taken(NamedTuple):
    """What a batch takes of a submission: from one place up to another."""

    submission: Submission
    start: int
    stop: int


@dataclass
class _OfTenant:
    """Readings of a tenant that wait, and how many of them are in the way of its next request."""

    waiting: int = 0
    ahead: int = 0


class Queue:
    """Submissions that wait: each tenant's in the order in which they came, tenants in turn.

    Attributes:
        waiting: readings that wait.
        ahead: how many of them are in the way of a request that comes now.
    """

    def __init__(self, batch_readings: int) -> None:
        """`batch_readings`: most readings that a batch takes."""
        self.waiting = 0
        self.ahead = 0
        self._batch_readings = batch_readings
        self._submissions = Turns[Submission]()
        self._of_tenants: dict[str, _OfTenant] = {}

    def __bool__(self) -> bool:
        return bool(self._submissions)

    def has_room(self, tenant: str, readings: int, most: int) -> bool:
        """Whether so many more readings of a tenant may wait, where `most` may in all; see turns.has_room."""
        if self.waiting + readings <= most:
            return True
        own = self._of_tenants.get(tenant)
        tenants = len(self._of_tenants) + (own is None)
        return has_room(readings, own.waiting if own else 0, self.waiting, tenants, most)

    def ahead_of(self, tenant: str) -> int:
        """How many are in the way of a request of a tenant that comes now: of others no more than of its own, and one
        batch."""
        own = self._of_tenants[tenant].ahead if tenant in self._of_tenants else 0
        return own + sum(
            min(of_other.ahead, own + self._batch_readings)
            for other, of_other in self._of_tenants.items()
            if other != tenant
        )

    def add(self, submission: Submission) -> None:
        """Have a submission wait."""
        streams, tenant = submission.readings.streams, submission.tenant
        submission.ahead = len(streams)
        if len(streams) > MAX_PER_STREAM and len(set(streams)) < len(streams):
            submission.ahead = sum(min(count, MAX_PER_STREAM) for count in Counter(streams).values())
        self._submissions.add(tenant, submission)
        self._count(tenant, len(streams), submission.ahead)

    def remove(self, submission: Submission) -> None:
        """What is left of a submission waits no more."""
        left = len(submission.readings) - submission.taken
        if left and self._submissions.remove(submission.tenant, submission):
            self._count(submission.tenant, -left, -submission.ahead)

    def clear(self) -> list[Submission]:
        """Nothing waits any more; returns what did."""
        self.waiting = self.ahead = 0
        self._of_tenants.clear()
        return self._submissions.clear()

    def _count(self, tenant: str, waiting: int, ahead: int) -> None:
        """More of a tenant's readings wait, or fewer."""
        self.waiting += waiting
        self.ahead += ahead
        own = self._of_tenants.get(tenant)
        if own is None:
            own = self._of_tenants[tenant] = _OfTenant()
        own.waiting += waiting
        own.ahead += ahead
        if not own.waiting:
            del self._of_tenants[tenant]

    def take(self, busy: set[StreamKey]) -> list[Taken]:
        """The next batch: whole submissions as long as they fit, or a part of one that is large or deep.

        What is left of one waits for the next batch, and so does everything of the same streams behind it; others pass.

        Args:
            busy: streams that rest or are under way, of which nothing is taken; those of what is left are added.
        """
        taken: list[Taken] = []
        left: dict[str, list[Submission]] = {}
        room, depth = self._batch_readings, Counter[StreamKey]()
        while self._submissions and room > 0:
            tenant, submission = self._submissions.next()
            start = submission.taken
            streams = submission.readings.streams[start:] if start else submission.readings.streams
            if not busy.isdisjoint(streams):
                busy.update(streams)
                left.setdefault(tenant, []).append(submission)
                continue
            if taken and len(streams) > room:
                left.setdefault(tenant, []).append(submission)
                self._submissions.put_back(tenant, left.pop(tenant), first=True)
                break
            size = size_of_part(streams, room, depth)
            if size == 0:
                busy.update(streams)
                left.setdefault(tenant, []).append(submission)
                continue
            if size < len(streams) and start == 0 and len(set(streams)) < len(streams):
                submission.put_in_order()
                streams = submission.readings.streams
                size = size_of_part(streams, room, depth)
            submission.taken += size
            passed = max(0, submission.ahead - (len(streams) - size))
            submission.ahead -= passed
            self._count(tenant, -size, -passed)
            for stream in streams[:size]:
                depth[stream] = depth.get(stream, 0) + 1
            room -= size
            taken.append(Taken(submission, start, start + size))
            if size < len(streams):
                busy.update(streams[size:])
                left.setdefault(tenant, []).append(submission)
        for tenant, submissions in left.items():
            self._submissions.put_back(tenant, submissions)
        return taken


def size_of_part(
    streams: list[StreamKey], room: int, depth: Counter[StreamKey], most_per_stream: int = MAX_PER_STREAM
) -> int:
    """How many of a submission's readings a batch may take: `room`, and at most so many of one stream.

    Args:
        streams: of the readings that are left of it.
        depth: how many readings of each stream the batch has already.
    """
    part = streams[:room]
    if depth.keys().isdisjoint(part) and len(set(part)) == len(part):
        return len(part)
    seen = Counter[StreamKey]()
    for at, stream in enumerate(part):
        seen[stream] += 1
        if seen[stream] + depth[stream] > most_per_stream:
            return at
    return len(part)
