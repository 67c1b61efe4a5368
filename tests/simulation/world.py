"""One run: workers, senders and a server, all from one seed, and what must hold when it is over."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from unittest import mock

import numpy as np
import structlog

from gatewatch.service.core import applying
from gatewatch.service.core import records as state
from gatewatch.service.core.build import build_core
from gatewatch.service.core.contention import ContentionBackoff
from gatewatch.service.core.sequencing import Decision, decide
from gatewatch.service.core.stepper import Stepper
from gatewatch.service.core.stream_settings import StreamSettings
from gatewatch.service.core.takeover import Takeover
from gatewatch.service.intake import batcher
from gatewatch.service.intake.admission import Admission
from gatewatch.service.intake.batcher import Batcher
from gatewatch.service.intake.queue import Queue
from gatewatch.service.observability.metrics import Metrics, Stage
from gatewatch.service.serving.registry import Registry
from gatewatch.service.storage.record_cache import RecordCache
from tests.simulation.check import STEPPER, check
from tests.simulation.faults import LATEST_S, Faults
from tests.simulation.fold import Fold
from tests.simulation.loop import Stuck, VirtualLoop
from tests.simulation.redis import Redis
from tests.simulation.senders import FIRST, Mode, Request, Sender, make_plans, readings_of
from tests.simulation.store import SimulatedStore
from tests.support.scorer import JSON, NothingAsked, model_of, texts

START_S = 1_700_000_000.0
MOST_STEPS = 20_000
"""Callbacks; a run takes 40 to 1,300."""
LONG, SHORT = 32, 6
"""Slots of a history: more, or fewer, than a stream has readings."""


class _NoStage(Stage):
    def __init__(self) -> None: ...

    def done(self) -> None: ...


class _NoSeries:
    def set(self, value: float) -> None: ...


class NoMetrics(Metrics):
    """Counts nothing."""

    _none = _NoStage()

    def __init__(self) -> None:
        self.waiting = _NoSeries()  # type: ignore[assignment]

    def stage(self, stage: str) -> Stage:  # noqa: ARG002
        """Not timed."""
        return self._none

    def waited(self, seconds: float) -> None: ...
    def answered(self, status: str, readings: int) -> None: ...
    def unknown_channels(self, readings: int) -> None: ...
    def replayed(self, readings: int) -> None: ...
    def scored(self, scores: Any) -> None: ...
    def alerted(self, reason: str) -> None: ...
    def batch(self, readings: int) -> None: ...
    def store_error(self, operation: str) -> None: ...
    def foreign_value(self) -> None: ...
    def rebuilt(self, cause: str) -> None: ...
    def corrected(self, late: int, rescored: int) -> None: ...
    def takeover(self, number: int) -> None: ...
    def clock_stepped(self, readings: int) -> None: ...
    def sequence_restarted(self) -> None: ...


RECORD_CACHE_BYTES = 500
"""Two or three records, in three quarters of the runs."""


@dataclass(frozen=True)
class Variant:
    """What the workers are made of."""

    store: type[SimulatedStore] = SimulatedStore
    decide: Callable[..., Decision] = decide
    remembers: bool = False


CORRECT = Variant(remembers=True)


@dataclass
class Outcome:
    """What became of a run; `ending` is a hash of all that the server holds in the end."""

    seed: int
    ending: str
    violations: list[str]
    faults: Counter[str]
    readings: int
    requests: int


class LoopClock:
    """A Clock on virtual time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop

    def unix_ms(self) -> int:
        """The time of day."""
        return int((START_S + self.loop.time()) * 1000)

    def monotonic(self) -> float:
        """The loop's time."""
        return self.loop.time()


class _SetClock(LoopClock):
    """One whose time of day is set back and forth."""

    def __init__(self, loop: VirtualLoop, rng: random.Random) -> None:
        super().__init__(loop)
        self.rng = rng

    def unix_ms(self) -> int:
        skew_s = self.rng.uniform(-60, 60) if self.rng.random() < 0.1 else 0.0
        return int((START_S + self.loop.time() + skew_s) * 1000)


class Worker:
    """A process of the service: a Batcher and a Scorer with a store of its own. It crashes, and starts again."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._requests: list[asyncio.Task[list[str]]] = []
        self._batcher: Batcher | None = None
        self._store: SimulatedStore | None = None
        self.requests = 0

    def start(self) -> None:
        """Begin afresh, with empty memory."""
        world = self._world
        self._store = world.variant.store(world.loop, world.redis, world.faults, self.crash)
        if world.remembers:
            self._store.remembered = RecordCache(RECORD_CACHE_BYTES)
        takeover = Takeover(self._store, world.detector.digest.hex(), world.metrics)
        backoff = ContentionBackoff(world.rng)
        core = build_core(
            Registry(world.model),
            self._store,
            world.metrics,
            backoff,
            takeover,
            world.clock,
            NothingAsked(),
            save_attempts=4,
            most_streams=1000,
        )
        self._batcher = Batcher(
            core.scorer, backoff, Queue(world.batch_readings), Admission(1000, 1e9), world.metrics, world.clock
        )
        self._batcher.start()

    def crash(self) -> None:
        """Stop at whatever await it stands at; what was sent is on its way."""
        if self._batcher is None or self._store is None:
            return
        self._store.gone = True
        self._batcher.cancel()
        for task in self._requests:
            task.cancel()
        self._requests, self._batcher = [], None
        self._world.loop.call_later(self._world.rng.random() * 0.2, self.start)

    def submit(self, request: Request) -> asyncio.Task[list[str]] | None:
        """Hand in a request; None while the worker is down."""
        if self._batcher is None:
            return None
        self.requests += 1
        self._requests = [request for request in self._requests if not request.done()]
        self._requests.append(self._world.loop.create_task(self._answers(self._batcher, request)))
        return self._requests[-1]

    async def _answers(self, batcher: Batcher, request: Request) -> list[str]:
        return texts(await batcher.take(readings_of(self._world.model, request), JSON.encoder))


class World:
    """Everything in one run."""

    detector = Fold()
    metrics = NoMetrics()

    def __init__(self, seed: int, variant: Variant) -> None:
        self.rng = rng = random.Random(seed)
        self.seed = seed
        self.variant = variant
        rollback = rng.random() < 0.25  # a quarter of the runs is about servers that forget
        self.strict = not rollback and rng.random() < 0.7
        self.remembers = variant.remembers and seed % 4 > 0
        self.slots = LONG if rng.random() < 0.7 else SHORT
        self.model = model_of(self.detector, self.slots)
        self.batch_readings = rng.choice((4, 32))
        self.beside = (1, 4, batcher.SECOND_BATCH_MIN)[seed % 3]
        self.loop = VirtualLoop(rng, MOST_STEPS)  # type: ignore[abstract]  # the rest is sockets, signals, processes
        self.clock = _SetClock(self.loop, rng)
        self.redis = Redis(self.loop, rng, self.strict)
        self.faults = Faults.of(rng, {"server crash", "late", "pause"} if rollback else set())
        self.workers = [Worker(self) for _ in range(rng.randint(2, 3))]
        modes: list[Mode] = ["hold", "seq", "anew", "time"]
        if self.slots == LONG:
            modes.append("window")
        names = map("s{}".format, itertools.count())
        submits = [worker.submit for worker in self.workers]
        self.senders = [
            Sender(self.loop, rng, self.faults, make_plans(rng, names, streams, modes, 14 if rollback else 8), submits)
            for streams in ((1,) if rollback else rng.choice(((1,), (1,), (2,), (1, 1), (1, 2))))
        ]
        self.plans = [plan for sender in self.senders for plan in sender.plans]
        for plan in self.plans:
            for what, value in _prepared(plan.stream, plan.mode, self.slots).items():
                self.redis.values[plan.key, what] = value
            if plan.mode == "hold":
                ring = self.redis.values[plan.key, "history"]
                self.redis.journal.append((plan.key, ring[len(STEPPER.usual.ring_header) :]))
        self.redis.sync()

    async def live(self) -> dict[tuple[str, int], str]:
        """Let everything happen; then, without faults, send every reading once more. Returns the last answers."""
        for worker in self.workers:
            worker.start()
        await asyncio.gather(*(sender.run(self.rng.randint(1, 2)) for sender in self.senders))
        self.faults.left = 0
        await asyncio.sleep(2 * LATEST_S)
        request = [(plan, at) for plan in self.plans for at in range(len(plan.readings))]
        task = self.workers[0].submit(request)
        assert task is not None, "no worker is up"
        answers = await task
        self.senders[0].hear(request, answers)
        return {(plan.stream, at): text for (plan, at), text in zip(request, answers, strict=True)}


@lru_cache
def _prepared(stream: str, mode: Mode, slots: int) -> dict[str, bytes]:
    """What the store holds of a stream at the start, safe from any crash.

    A stream that waits at gaps takes any number as its first; so it begins with one that nothing can lose.
    """
    if mode not in ("hold", "window"):
        return {}
    stepper, seed = Stepper(World.detector, slots), state.seed(stream.encode())
    record = stepper.fresh(1)
    settings = StreamSettings(on_gap="hold") if mode == "hold" else StreamSettings(reorder_window_s=60)
    settings.write(record)
    prepared = {"settings": settings.encode()}
    if mode == "hold":
        entries = stepper.step(record, np.array([FIRST.seq]), np.array([FIRST.ms]), np.array([[FIRST.value]]))
        pieces = stepper.slots_anew(stepper.usual, seed, 0, entries)
        prepared["history"] = b"".join(piece for _, _, piece in pieces)
    (prepared["state"],) = state.pack(record, [stepper.usual], [seed])
    return prepared


def run(seed: int, variant: Variant = CORRECT) -> Outcome:
    """One run, from its seed alone."""
    world = World(seed, variant)
    last: dict[tuple[str, int], str] = {}
    violations: list[str] = []
    with (
        mock.patch.object(applying, "decide", variant.decide),
        mock.patch.object(batcher, "SECOND_BATCH_MIN", world.beside),
    ):
        try:
            last = world.loop.run_until_complete(world.live())
        except Stuck as stuck:
            violations.append(str(stuck))
    for sender in world.senders:
        violations += sender.violations
    if last:
        for plan in world.plans:
            violations += check(world.redis, world.slots, plan, last)
    requests = sum(worker.requests for worker in world.workers)
    ending = hashlib.blake2b(repr(sorted(world.redis.values.items())).encode(), digest_size=8).hexdigest()
    return Outcome(
        seed, ending, violations, world.faults.counts, sum(len(plan.readings) for plan in world.plans), requests
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No log lines: the service logs every fault it meets."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)
