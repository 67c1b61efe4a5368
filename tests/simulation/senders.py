"""Senders: each has some streams and sends their readings until every one is answered.

A sender has several requests under way, with readings of several streams, within a window and not always in order. It
sends some requests to two workers, gives up on slow ones, and sends whatever was not answered again.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec
import numpy as np

from gatewatch.service.core.readings import NO_TIME, Model, Readings
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.doors.json_results import Result
from gatewatch.service.errors import StoreUnavailable
from tests.simulation.faults import Faults
from tests.simulation.fold import Sent
from tests.simulation.loop import VirtualLoop

GIVE_UP_S = 1.0
MOST_READINGS = 4
"""In a request."""
SCORED, REFUSED = ("warming_up", "normal", "anomalous"), ("late", "conflict")

Mode = Literal["hold", "seq", "anew", "time", "window"]
"""Numbered, and the stream waits at gaps; numbered; numbered and timed, with a sender that begins to count anew; by
time; by time, and late readings take their place."""

Submit = Callable[["Request"], "asyncio.Task[list[str]] | None"]
Request = list[tuple["Plan", int]]


TENANT = "simulated"

FIRST = Sent(0, 0, 0.5)
"""The first reading of every stream that waits at gaps."""


@dataclass
class Plan:
    """What a sender sends of one stream, and what it heard.

    Attributes:
        settled: which readings it sends no more.
        window: how far ahead of the first that is not settled it sends.
        rivals: readings with the identity of one of `readings` and another value; counted on from those.
        answers: for each reading and rival the different answers to it, but for `replayed`.
    """

    stream: str
    mode: Mode
    readings: list[Sent]
    settled: list[bool]
    window: int
    rivals: dict[int, Sent] = field(default_factory=dict)
    answers: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def key(self) -> StreamKey:
        """What the service knows it by."""
        return StreamKey(TENANT, self.stream)

    def sent(self, at: int) -> Sent:
        """A reading or a rival."""
        return self.readings[at] if at < len(self.readings) else self.rivals[at]

    def rival_of(self, at: int) -> int | None:
        """Where the rival of a reading stands, if it has one."""
        rival = at + len(self.readings)
        return rival if rival in self.rivals else None

    def pending(self) -> list[int]:
        """The readings to send next."""
        if all(self.settled):
            return []
        first = self.settled.index(False)
        return [at for at in range(first, min(first + self.window, len(self.readings))) if not self.settled[at]]


def readings_of(model: Model, request: Request) -> Readings:
    """A request as a door hands it on."""
    sent = [plan.sent(at) for plan, at in request]
    values = [(float(np.float32(one.value)),) for one in sent]
    return Readings(
        model, [plan.key for plan, _ in request], [one.ms for one in sent], [one.seq for one in sent], list(values)
    )


class Sender:
    """One client process.

    Attributes:
        violations: what no sender should ever hear.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        rng: random.Random,
        faults: Faults,
        plans: list[Plan],
        submits: Sequence[Submit],
    ) -> None:
        """`submits`: how to hand readings to each worker; None from one that is down."""
        self.violations: list[str] = []
        self._loop = loop
        self._rng = rng
        self._faults = faults
        self.plans = plans
        self._submits = submits
        self._background: list[asyncio.Task[None]] = []

    async def run(self, lanes: int) -> None:
        """Send everything, with so many requests under way."""
        await asyncio.gather(*(self._lane() for _ in range(lanes)))
        while self._background:
            await self._background.pop()

    async def _lane(self) -> None:
        rng = self._rng
        while pending := [(plan, at) for plan in self.plans for at in plan.pending()]:
            size = 1 + int(rng.random() * min(MOST_READINGS, len(pending)))
            if rng.random() < 0.5:
                request = rng.sample(pending, size)
            else:
                start = int(rng.random() * (len(pending) - size + 1))
                request = pending[start : start + size]
            first, second = rng.sample(self._submits, 2)
            if rng.random() < 0.2:
                self._background.append(self._loop.create_task(self._post(request, second)))
            rivals = [(plan, rival) for plan, at in request if (rival := plan.rival_of(at)) is not None]
            if rivals and rng.random() < 0.5:
                self._background.append(self._loop.create_task(self._post(rivals, second)))
            await self._post(request, first)

    async def _post(self, request: Request, submit: Submit) -> None:
        rng = self._rng
        fault = self._faults.strike("post lost", "answer lost", "post slow")
        await asyncio.sleep(rng.uniform(0.02, 0.5) if fault == "post slow" else rng.random() * 0.01)
        task = None if fault == "post lost" else submit(request)
        if task is None:
            await asyncio.sleep(rng.random() * 0.1)
            return
        await asyncio.wait((task,), timeout=GIVE_UP_S)
        if not task.done():
            task.cancel()
            return
        if task.cancelled():  # the worker crashed
            return
        error = task.exception()
        if error is None:
            self.hear(request, task.result(), knows=fault != "answer lost")
        elif not isinstance(error, StoreUnavailable):
            self.violations.append(f"a request failed with {error!r}")
        else:
            await asyncio.sleep(rng.random() * 0.1)

    def hear(self, request: Request, answers: list[str], knows: bool = True) -> None:
        """Note the answers a worker gave; with `knows`, they also reached the sender."""
        if len(answers) != len(request):
            self.violations.append(f"{len(answers)} answers to {len(request)} readings")
        for (plan, at), text in zip(request, answers, strict=False):
            reading, result = plan.sent(at), msgspec.json.decode(text, type=Result)
            if result.stream != plan.stream or (-1 if result.seq is None else result.seq) != reading.seq:
                self.violations.append(f"the answer to {plan.stream} {reading} is {text}")
            elif result.status in (*SCORED, *REFUSED):
                first = text.replace('"replayed":true', '"replayed":false')
                plan.answers[at].add(result.status if result.status in REFUSED else first)
                if knows and at < len(plan.settled):
                    plan.settled[at] = True
            elif result.status == "rejected" and plan.mode == "hold" and "expected " in (result.error or ""):
                if knows:
                    expected = int((result.error or "").rpartition("expected ")[2])
                    plan.settled[expected:] = [False] * (len(plan.settled) - expected)
            else:
                self.violations.append(f"the answer to {plan.stream} {reading} is {text}")


def make_plans(rng: random.Random, names: Iterator[str], streams: int, modes: list[Mode], most: int) -> list[Plan]:
    """Random readings of some streams, at most so many of each."""
    plans = []
    for _ in range(streams):
        mode = rng.choice(modes)
        count, ms, timed = rng.randint(3, most), 0, mode != "seq" or rng.random() < 0.5
        readings = []
        numbered = mode in ("hold", "seq", "anew")
        anew = rng.randint(1, count - 1) if mode == "anew" else count
        for at in range(count):
            ms += rng.randint(1, 3000)
            value = rng.randint(-99, 99) + (at / 64 if mode == "anew" else 0)  # what is sent again differs
            seq = at % anew if at < 2 * anew else at - anew
            readings.append(Sent(seq if numbered else -1, ms if timed else NO_TIME, value))
        if mode == "hold":
            readings[0] = FIRST
        plan = Plan(next(names), mode, readings, [False] * count, rng.randint(1, 4))
        if mode != "hold" and rng.random() < 0.3:
            for at in rng.sample(range(count), 2):
                plan.rivals[count + at] = replace(readings[at], value=readings[at].value + 0.5)
        plans.append(plan)
    return plans
