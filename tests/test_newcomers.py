"""The bound on streams, while batches beside each other begin new ones."""

from __future__ import annotations

import asyncio

from service.storage.store import StateStore
from service.streams.newcomers import Newcomers

MOST = 10


class Counting(StateStore):
    """A store with so many streams; while it counts them, something may happen."""

    def __init__(self, streams: int) -> None:
        self.streams = streams
        self.meanwhile = lambda: None

    async def count_streams(self) -> int:
        counted = self.streams
        await asyncio.sleep(0)
        self.meanwhile()
        return counted


def test_streams_that_are_begun_and_saved_while_they_are_counted_count() -> None:
    store = Counting(4)
    newcomers = Newcomers(store, MOST)

    def whole_batch() -> None:
        newcomers.begin({"a", "b", "c"})
        newcomers.end(["a", "b", "c"])
        store.streams, store.meanwhile = 7, lambda: None

    store.meanwhile = whole_batch
    assert asyncio.run(newcomers.room(["x", "y"], 2)) == 3
    store.meanwhile = whole_batch
    store.streams = 4
    assert asyncio.run(newcomers.room([f"x{at}" for at in range(6)], 6)) == 3


def test_what_another_batch_begins_is_waited_for_where_it_matters() -> None:
    store = Counting(4)
    newcomers = Newcomers(store, MOST)
    newcomers.begin({"a", "b", "c"})

    async def run() -> int:
        asking = asyncio.create_task(newcomers.room([f"x{at}" for at in range(6)], 6))
        await asyncio.sleep(0.01)
        assert not asking.done()
        newcomers.end(["a", "b", "c"])  # of which two were refused, say
        store.streams = 5
        return await asking

    assert asyncio.run(run()) == 5


def test_two_batches_never_wait_for_each_other_for_ever() -> None:
    newcomers = Newcomers(Counting(8), MOST)
    newcomers.begin({"a", "b", "c"})
    newcomers.begin({"x", "y"})

    async def run() -> list[int]:
        rooms = newcomers.room(["a", "b", "c"], 3), newcomers.room(["x", "y"], 2)
        return list(await asyncio.wait_for(asyncio.gather(*rooms), 20))

    assert asyncio.run(run()) == [0, 0]
