"""Processes that write the same stream all the time."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from datetime import datetime
from typing import Any

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.core.contention import LONGEST_REST_S, MOST_STREAMS, SHARED_S, ContentionBackoff
from gatewatch.service.core.records import FENCE
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import Contended
from gatewatch.service.storage.store import StateStore
from tests.simulation.faults import Faults
from tests.simulation.fold import Fold
from tests.simulation.loop import VirtualLoop
from tests.simulation.redis import Redis
from tests.simulation.store import SimulatedStore
from tests.simulation.world import LoopClock, NoMetrics
from tests.support.scorer import JSON, batcher_of, core_of, model_of, read, texts

SENDERS, EACH = 8, 40


def test_two_processes_apply_each_reading_of_a_hot_stream_once_and_in_order(
    detector: TrainedDetector, redis_url: str, tenant: str
) -> None:
    """Two processes, four senders each, one stream, in real time; what sends a reading away is not the matter here."""

    async def run() -> tuple[list[list[datetime]], list[datetime]]:
        stores = [StateStore(redis_url, tenant, 5000) for _ in range(2)]
        model, backoffs = model_of(detector, 512), [ContentionBackoff(random.Random(n)) for n in range(2)]
        cores = [core_of(model, s, 100, backoff) for s, backoff in zip(stores, backoffs, strict=True)]
        batchers = [batcher_of(core.scorer, backoff) for core, backoff in zip(cores, backoffs, strict=True)]
        for batcher in batchers:
            batcher.start()

        async def send(sender: int) -> list[datetime]:
            times = []
            for at in range(EACH):
                (part,) = read(model, tenant, {"stream": "hot", "values": {"pressure": sender, "flow": at}})
                (text,) = texts(await batchers[sender % 2].take(part.readings, part.encoder))
                times.append(datetime.fromisoformat(json.loads(text)["timestamp"]))
            return times

        times = await asyncio.gather(*map(send, range(SENDERS)))
        kept = [
            datetime.fromisoformat(json.loads(entry.answer)["timestamp"])
            for entry in await cores[0].inspection.recent(StreamKey(tenant, "hot"), JSON.encoder)
        ]
        for batcher, store in zip(batchers, stores, strict=True):
            await batcher.stop()
            await store.close()
        return list(times), kept

    times, kept = asyncio.run(run())
    assert all(mine == sorted(mine) for mine in times)  # each sender's in the order sent
    assert kept == sorted(time for mine in times for time in mine)  # all of them, each once


class Racing(ContentionBackoff):
    """Nothing rests."""

    def resting(self, now: float) -> dict[StreamKey, float]:  # noqa: ARG002
        return {}


class Distant(SimulatedStore):
    """A store without faults; each of its answers takes about `away_s`."""

    away_s = 0.0

    def start(self, run: Callable[[], Any], write: bool = False, starts: int | None = None) -> asyncio.Future[Any]:  # noqa: ARG002
        answer = self.loop.create_future()
        self.loop.call_later(self.away_s * self.faults.rng.uniform(1, 1.2), lambda: answer.set_result(run()))
        return answer


def sent_away(turns: type[ContentionBackoff], seed: int) -> int:
    """How many readings two processes send away, one of which takes half as long again for a batch as the other.

    Four senders each, one stream, and eight attempts to save it, in virtual time.
    """
    rng = random.Random(seed)
    loop = VirtualLoop(rng, 1_000_000)  # type: ignore[abstract]
    server, model = Redis(loop, rng, True), model_of(Fold(), 512)
    clock = LoopClock(loop)
    batchers = []
    for away_s in (0.001, 0.0015):
        store = Distant(loop, server, Faults(rng, frozenset(), 0.0, 0), lambda: None)
        store.away_s = away_s
        backoff = turns(rng)
        core = core_of(model, store, 8, backoff, NoMetrics(), clock)
        batchers.append(batcher_of(core.scorer, backoff, metrics=NoMetrics(), clock=clock))

    async def send(sender: int) -> int:
        refused = 0
        for at in range(EACH):
            (part,) = read(model, "simulated", {"stream": "hot", "values": {"x": at}})
            try:
                await batchers[sender % 2].take(part.readings, part.encoder)
            except Contended:
                refused += 1
        return refused

    async def run() -> int:
        for batcher in batchers:
            batcher.start()
        refused = sum(await asyncio.gather(*map(send, range(SENDERS))))
        for batcher in batchers:
            await batcher.stop()
        return refused

    return loop.run_until_complete(run())


def test_who_takes_longer_is_sent_away_in_a_race_and_not_in_turn() -> None:
    seeds = range(3)
    assert [sent_away(ContentionBackoff, seed) for seed in seeds] == [0] * 3
    assert sum(sent_away(Racing, seed) for seed in seeds) > 0


A, B = StreamKey("t", "a"), StreamKey("t", "b")


def record(tag: bytes) -> bytes:
    """The beginning of a record, with what the fence covers."""
    return bytes(12) + tag.ljust(21, b"\0")


def test_a_stream_rests_after_each_batch_as_long_as_others_write_it() -> None:
    turns = ContentionBackoff(random.Random(0))
    mine, other = record(b"mine"), record(b"other")
    turns.saved([A, B], [mine, mine], set(), 0.001, 0.0)
    assert not turns.resting(0.0)  # nobody else has written them
    turns.saved([A, B], [mine, mine], {A}, 0.001, 0.0)
    assert not turns.resting(0.0)  # it lost the race, and tries again at once
    turns.saved([A, B], [mine, mine], set(), 0.001, 0.01)
    assert 0.011 <= turns.resting(0.01)[A] <= 0.012
    assert turns.resting(0.01).keys() == {A}
    assert turns.shares([B, A])
    assert not turns.shares([B])
    turns.saved([A], [mine], set(), 1.0, 0.02)
    assert turns.resting(0.02) == {A: 0.02 + LONGEST_REST_S}
    turns.loaded([A], [other[FENCE]], SHARED_S)
    turns.saved([A], [mine], set(), 0.001, SHARED_S + 0.1)
    assert turns.resting(SHARED_S + 0.1)  # the other has written it again
    turns.loaded([A], [mine[FENCE]], 2 * SHARED_S)
    turns.saved([A], [mine], set(), 0.001, 2 * SHARED_S + 0.1)
    assert not turns.resting(2 * SHARED_S + 0.1)  # and then no more


def test_what_is_noted_of_streams_is_bounded() -> None:
    turns = ContentionBackoff(random.Random(0))
    for at in range(0, 3 * MOST_STREAMS, 1000):
        names = [StreamKey("t", f"s{n}") for n in range(at, at + 1000)]
        turns.saved(names, [record(b"x")] * 1000, set(names), 0.001, 0.0)
        turns.saved(names, [record(b"x")] * 1000, set(), 0.001, 0.0)
        assert 1000 <= len(turns.resting(0.0)) <= MOST_STREAMS
