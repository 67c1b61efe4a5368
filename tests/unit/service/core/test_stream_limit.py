"""The bound on streams, while batches beside each other begin new ones."""

from __future__ import annotations

import asyncio

from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.core.stream_limit import StreamLimit

MOST = 10
SIX, THREE, TWO = ([StreamKey("t", name) for name in names] for names in ("abcdef", "uvw", "xy"))
ONE = TWO[:1]


class Counting:
    """A store with so many streams; its first answer may be a while on its way."""

    def __init__(self, streams: int) -> None:
        self.streams = streams
        self.arrives: asyncio.Event | None = None

    async def count_channels(self, _: str) -> int:
        return 0

    async def count_streams(self, _: str) -> int:
        counted = self.streams
        arrives, self.arrives = self.arrives, None
        await (arrives.wait() if arrives else asyncio.sleep(0))
        return counted


def test_streams_that_are_begun_and_saved_while_they_are_counted_count() -> None:
    async def run() -> int:
        store = Counting(4)
        store.arrives = arrives = asyncio.Event()
        newcomers = StreamLimit(store, "t", MOST, None)
        six = asyncio.create_task(newcomers.admit(SIX, SIX))
        await asyncio.sleep(0)
        assert await newcomers.admit(THREE, THREE) == 3
        store.streams = 7
        newcomers.end(THREE)
        arrives.set()
        return await six

    assert asyncio.run(run()) == 3


def test_what_another_batch_begins_is_waited_for_where_it_matters() -> None:
    async def run() -> int:
        store = Counting(4)
        newcomers = StreamLimit(store, "t", MOST, None)
        assert await newcomers.admit(THREE, THREE) == 3
        assert await newcomers.admit(ONE, ONE) == 1  # there is room whatever becomes of the three
        six = asyncio.create_task(newcomers.admit(SIX, SIX))
        await asyncio.sleep(0.01)
        assert not six.done()
        newcomers.end(ONE)
        newcomers.end(THREE)  # of which two were refused, say
        store.streams = 6
        return await six

    assert asyncio.run(run()) == 4


def test_two_batches_never_wait_for_each_other_for_ever() -> None:
    async def run() -> list[int]:
        store = Counting(4)
        newcomers = StreamLimit(store, "t", MOST, None)
        assert await newcomers.admit(THREE, THREE) == 3
        assert await newcomers.admit(TWO, TWO) == 2
        store.streams = 8  # another process was faster, and both have to begin anew
        again = newcomers.admit(THREE, THREE), newcomers.admit(TWO, TWO)
        return list(await asyncio.wait_for(asyncio.gather(*again), 20))

    assert asyncio.run(run()) == [0, 0]
