"""Delivery: what to do to have a batch of readings acknowledged. It waits for nothing itself.

A delivery is a generator. It yields what is to be done, a request or a wait, and is sent what came of it; it returns
the results. The clients, one of threads and one of asyncio, do what it says.

Sending again is safe: the service applies a reading once, whatever its sender has heard of it, and answers a repeat as
it did the first time (docs/contract.md, 1 and 3).
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from .errors import Refused
from .readings import Reading, Result, body_of

AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses after which the same readings are sent again: the service or a proxy before it could not take them now."""

ABOUT_READINGS = frozenset((413, 422))
"""Statuses that concern the readings sent: they are sent in halves, until the one is found that is the reason."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 10.0


@dataclass(frozen=True, slots=True)
class Post:
    """Post this body to /v1/readings."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Get:
    """Get this path."""

    path: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait, then go on.

    Attributes:
        why: what went wrong, in words.
    """

    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a request.

    Attributes:
        status: of the answer; 0 where none came.
        body: of the answer; without one, what went wrong.
        retry_after_s: that the service asks to wait.
    """

    status: int
    body: bytes
    retry_after_s: float | None = None


Action = Post | Get | Wait
Delivery = Generator[Action, Reply | None, list[Result]]


def deliver(readings: Sequence[Reading]) -> Delivery:
    """Have readings acknowledged; their results in the order given.

    Raises:
        Refused: nothing that was sent is the reason, and sending it again does not help.
    """
    if not readings:
        return []
    post, waits = Post(body_of(readings)), growing_waits()
    while True:
        reply = yield from _answered(post, waits, (200, *ABOUT_READINGS))
        if reply.status in ABOUT_READINGS:
            return (yield from _in_halves(readings, reply))
        results = _results(reply.body, len(readings))
        if results is not None:
            return results
        yield Wait(next(waits), "the reply is not the results of these readings")


def last_seq(stream: str) -> Generator[Action, Reply | None, int | None]:
    """Ask for the number of the last reading that the service has of a stream; None if it has none.

    Raises:
        Refused: it does not say, and would not say it later.
    """
    reply = yield from _answered(Get(f"/v1/streams/{quote(stream, safe='')}"), growing_waits(), (200, 404))
    if reply.status == 404:
        return None
    try:
        found = json.loads(reply.body)["last_seq"]
        return None if found is None else int(found)
    except (ValueError, LookupError, TypeError) as error:
        raise Refused(f"what the service answered about {stream} names no last_seq") from error


def _answered(
    action: Post | Get, waits: Iterator[float], expected: Collection[int]
) -> Generator[Action, Reply | None, Reply]:
    """Do something again and again until it is answered with an expected status. Raises Refused for any other."""
    while True:
        reply = (yield action) or Reply(0, b"")
        if reply.status in expected:
            return reply
        if reply.status == 0:
            why = problem_detail(reply.body)
        else:
            why = f"the service answered {reply.status}: {problem_detail(reply.body)}"
            if reply.status not in AGAIN:
                raise Refused(why)
        yield Wait(max(reply.retry_after_s or 0.0, next(waits)), why)


def growing_waits() -> Iterator[float]:
    """Seconds between attempts: doubled each time up to a bound, and each drawn, so that senders do not move as one."""
    longest = FIRST_WAIT_S
    while True:
        yield longest * random.uniform(0.5, 1.0)  # noqa: S311 - it draws waiting times
        longest = min(2 * longest, LONGEST_WAIT_S)


def _in_halves(readings: Sequence[Reading], reply: Reply) -> Delivery:
    """A request that was refused for what is in it: each half of its own, and a reading alone is rejected."""
    if len(readings) == 1:
        (reading,) = readings
        return [Result(reading.stream, "rejected", seq=reading.seq, error=problem_detail(reply.body))]
    half = len(readings) // 2
    first = yield from deliver(readings[:half])
    return first + (yield from deliver(readings[half:]))


def _results(body: bytes, count: int) -> list[Result] | None:
    try:
        found = [Result.of(result) for result in json.loads(body)]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return found if len(found) == count else None


def problem_detail(body: bytes) -> str:
    """What a problem document says, or the beginning of whatever came instead."""
    try:
        problem = json.loads(body)
        return str(problem["detail"])[:500]
    except (ValueError, LookupError, TypeError):
        return body[:200].decode(errors="replace")
