"""Tenants that wait are served in turn, and one that sends much keeps nobody out."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Any, cast

import pytest

from gatewatch.service.clock import SystemClock
from gatewatch.service.core.outcomes import Answer, Refused
from gatewatch.service.core.readings import Part, Readings
from gatewatch.service.errors import NewerRecord, TooManyWaiting
from gatewatch.service.incidents import feed
from gatewatch.service.incidents.feed import Feed
from gatewatch.service.intake import beside
from gatewatch.service.intake.admission import Admission
from gatewatch.service.intake.beside import Beside
from gatewatch.service.intake.queue import Queue, Submission
from gatewatch.service.turns import Turns, has_room
from tests.support.scorer import JSON, decode
from tests.unit.service.intake.test_batcher import Model


def readings_of(tenant: str, *names: str, first: int = 0) -> Readings:
    content = [{"stream": name, "seq": first + at, "values": 1.5} for at, name in enumerate(names)]
    return decode(Model, json.dumps(content).encode(), tenant=tenant)[0].readings


def submission(tenant: str, *names: str, first: int = 0) -> Submission:
    return Submission(readings_of(tenant, *names, first=first), JSON.encoder, asyncio.Future(), 0.0)


async def batches(queue: Queue, given: list[Submission]) -> list[list[str]]:
    for one in given:
        queue.add(one)
    found = []
    while queue:
        found.append([f"{one.tenant}{one.readings.seqs[start]}" for one, start, _ in queue.take(set())])
    return found


def test_a_batch_takes_of_each_tenant_in_turn_and_of_each_in_its_order() -> None:
    async def run() -> list[list[str]]:
        many = [submission("a", f"s{at}", first=at) for at in range(8)]
        few = [submission("b", "s0", first=0), submission("b", "s0", first=1), submission("c", "s0", first=0)]
        return await batches(Queue(4), [*many, *few])

    assert asyncio.run(run()) == [["a0", "b0", "c0", "a1"], ["b1", "a2", "a3", "a4"], ["a5", "a6", "a7"]]


def test_a_submission_that_does_not_fit_begins_the_next_batch() -> None:
    async def run() -> list[list[str]]:
        large = submission("a", "x", "y", "z", first=50)
        return await batches(Queue(4), [submission("b", "s", first=0), submission("b", "t", first=1), large])

    assert asyncio.run(run()) == [["b0", "a50"], ["b1"]]

    async def other() -> list[list[str]]:
        large = submission("a", "w", "x", "y", "z", first=50)
        return await batches(Queue(4), [submission("b", f"s{at}", first=at) for at in range(3)] + [large])

    assert asyncio.run(other()) == [["b0"], ["a50"], ["b1", "b2"]]


def test_order_of_a_stream_and_counts_are_kept_whoever_waits_beside() -> None:
    """Random submissions, batches and busy streams: each stream's readings in their order, none lost, none twice."""

    async def run(seed: int) -> None:
        rng, queue = random.Random(seed), Queue(8)
        sent: dict[tuple[str, str], list[int]] = {}
        taken: dict[tuple[str, str], list[int]] = {}
        seq, waiting = 0, list[Submission]()
        for _ in range(300):
            if rng.random() < 0.5:
                tenant, names = rng.choice("aaab"), [rng.choice("xyz") for _ in range(rng.randint(1, 12))]
                waiting.append(submission(tenant, *names, first=seq))
                for name in names:
                    sent.setdefault((tenant, name), []).append(seq)
                    seq += 1
                queue.add(waiting[-1])
            elif rng.random() < 0.1 and waiting:
                gone = waiting.pop(rng.randrange(len(waiting)))
                left = gone.readings.streams[gone.taken :]
                for stream, number in zip(left, gone.readings.seqs[gone.taken :], strict=True):
                    sent[stream.tenant, stream.name].remove(number)
                queue.remove(gone)
            else:
                busy = {one.readings.streams[0] for one in waiting if rng.random() < 0.05}
                for one, start, stop in queue.take(busy):
                    for stream, number in zip(
                        one.readings.streams[start:stop], one.readings.seqs[start:stop], strict=True
                    ):
                        taken.setdefault((stream.tenant, stream.name), []).append(number)
            waiting = [one for one in waiting if one.taken < len(one.readings)]
            assert queue.waiting == sum(len(one.readings) - one.taken for one in waiting)
            assert queue.ahead == sum(one.ahead for one in waiting)
        while queue:
            for one, start, stop in queue.take(set()):
                for stream, number in zip(one.readings.streams[start:stop], one.readings.seqs[start:stop], strict=True):
                    taken.setdefault((stream.tenant, stream.name), []).append(number)
        assert (queue.waiting, queue.ahead) == (0, 0)
        assert {key: numbers for key, numbers in sent.items() if numbers} == taken

    for seed in range(20):
        asyncio.run(run(seed))


def test_who_has_less_than_its_share_is_let_in_where_another_has_taken_all_room() -> None:
    async def run() -> None:
        queue, admission = Queue(4), Admission(20, 500)
        admission.note_pace(4, 1.0)
        for at in range(20):
            queue.add(submission("a", f"s{at}"))
        with pytest.raises(TooManyWaiting, match="20 readings wait"):
            admission.check("a", 1, queue)
        admission.check("b", 10, queue)
        with pytest.raises(TooManyWaiting, match="20 readings wait"):
            admission.check("b", 11, queue)
        assert (queue.ahead_of("a"), queue.ahead_of("b")) == (20, 4)  # of the others one batch
        for at in range(10):
            queue.add(submission("b", f"s{at}"))
        with pytest.raises(TooManyWaiting, match="30 readings wait"):
            admission.check("b", 1, queue)
        assert queue.ahead_of("b") == 10 + 14
        admission.check("c", 6, queue)

    asyncio.run(run())


def test_what_waits_ahead_is_counted_by_turns() -> None:
    async def run() -> None:
        queue, admission = Queue(4), Admission(1000, 500)
        admission.note_pace(0, 1.0)  # 31 ms a reading
        for at in range(40):
            queue.add(submission("a", f"s{at}"))
        with pytest.raises(TooManyWaiting, match="the 40 readings"):
            admission.check("a", 1, queue)
        admission.check("b", 1, queue)

    asyncio.run(run())


def test_a_batch_that_waited_for_a_busy_redis_has_nobody_refused() -> None:
    async def run() -> None:
        queue, admission = Queue(1024), Admission(10_000, 500)
        for at in range(500):
            queue.add(submission("a", f"s{at}"))
        for took_s in (0.1, 0.1, 3.0, 0.1, 3.0):
            admission.note_pace(1000, took_s)
        admission.check("a", 1, queue)
        admission.note_pace(1000, 3.0)  # most of the last five: that is its pace
        with pytest.raises(TooManyWaiting, match="the 500 readings"):
            admission.check("a", 1, queue)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("more", "own", "waiting", "tenants", "room"),
    [
        (5, 0, 0, 1, True), (5, 95, 95, 1, True), (6, 95, 95, 1, False), (1, 0, 100, 2, True), (50, 0, 100, 2, True),
        (51, 0, 100, 2, False), (1, 50, 150, 2, False), (33, 0, 150, 3, True), (1, 0, 200, 9, False),
        (12, 0, 90, 9, False), (10, 90, 90, 9, True),
    ],
)  # fmt: skip
def test_room_is_by_share_and_never_twice_the_most(more: int, own: int, waiting: int, tenants: int, room: bool) -> None:
    assert has_room(more, own, waiting, tenants, 100) is room


def test_turns_pass_from_tenant_to_tenant() -> None:
    turns = Turns[int]()
    for tenant, one in (("a", 1), ("a", 2), ("b", 3), ("a", 4), ("c", 5)):
        turns.add(tenant, one)
    assert (turns.remove("c", 5), turns.remove("c", 5), turns.remove("a", 3)) == (True, False, False)
    assert turns.next() == ("a", 1)
    turns.put_back("a", [1])
    assert [turns.next() for _ in range(4)] == [("b", 3), ("a", 1), ("a", 2), ("a", 4)]
    assert not turns
    turns.add("a", 1)
    turns.put_back("b", [2, 3], first=True)
    assert turns.clear() == [2, 3, 1]
    assert not turns


class Scorer:
    """Notes whose chunks are scored together."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def score_batch(self, parts: Sequence[Part]) -> list[Answer]:
        await asyncio.sleep(0)
        self.seen.append("".join(part.readings.streams[0].tenant for part in parts))
        return ["" for part in parts for _ in range(part.start, part.stop)]


def test_beside_the_batches_tenants_have_their_turn_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "TOGETHER", 2)
    monkeypatch.setattr(beside, "CHUNK", 2)

    async def run() -> list[str]:
        work, scorer = Beside(24), Scorer()

        async def score(tenant: str, number: int) -> list[list[Answer]]:
            given: Any = scorer
            return await work.score(
                given, [readings_of(tenant, *(f"{number}-{at}" for at in range(4)))], JSON.encoder, 9
            )

        asked = [asyncio.create_task(score(tenant, at)) for at, tenant in enumerate("aaaaaa")]
        await asyncio.sleep(0)
        with pytest.raises(TooManyWaiting):
            await score("a", 6)
        asked += [asyncio.create_task(score("b", 7)), asyncio.create_task(score("b", 8))]
        assert [len(found[0]) for found in await asyncio.gather(*asked)] == [4] * 8
        assert work._waiting == 0
        return scorer.seen

    seen = asyncio.run(run())
    assert sum(map(len, seen)) == 16
    assert "".join(seen[:5]).count("b") >= 3


NEWER = NewerRecord([])


@pytest.mark.parametrize(
    ("met", "error"),
    [
        (mistake := ValueError("a mistake of ours"), mistake),
        (Refused("s1", None, 1, "rejected", str(NEWER), NEWER), NEWER),
    ],
)
def test_beside_the_batches_too_what_went_wrong_with_a_reading_is_no_answer(met: Answer, error: Exception) -> None:
    class Failing(Scorer):
        async def score_batch(self, parts: Sequence[Part]) -> list[Answer]:
            return [met if part.readings.streams[at].tenant == "bad" else "" for part in parts for at in range(2)]

    async def run() -> None:
        work, scorer = Beside(24), cast("Any", Failing())
        sent = [work.score(scorer, [readings_of(tenant, "s0", "s1")], JSON.encoder, 8) for tenant in ("bad", "good")]
        assert await asyncio.gather(*sent, return_exceptions=True) == [error, [["", ""]]]

    asyncio.run(run())


def test_one_tenant_does_not_take_all_places_of_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "LISTENERS", 4)

    async def run() -> None:
        class Nothing:
            """No incident ever changes."""

        store: Any = Nothing()
        told = Feed(store, SystemClock())
        for _ in range(4):
            assert told.has_room("a")
            told._listeners.add(feed._Listener("a"))
        assert not told.has_room("a")
        for _ in range(2):
            assert told.has_room("b")
            told._listeners.add(feed._Listener("b"))
        assert not told.has_room("b")
        assert told.has_room("c")

    asyncio.run(run())
