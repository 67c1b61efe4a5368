"""A tenant's streams in order: read once for all who ask, and never ahead of another tenant's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from gatewatch.service.clock import SystemClock
from gatewatch.service.core.standings import Search, Standings
from gatewatch.service.core.stream_key import StreamKey
from tests.support.asynchronous import asynchronous


class Heads:
    """Streams of which nothing is known but their names; those of `large` come once they may."""

    def __init__(self) -> None:
        self.begun, self.may, self.asked = asyncio.Event(), asyncio.Event(), Counter[str]()

    async def count_streams(self, tenant: str) -> int:
        self.asked[tenant] += 1
        if tenant == "large":
            self.begun.set()
            await self.may.wait()
        return 3

    async def list_streams(self, tenant: str, after: str, most: int) -> list[str]:
        return [name for name in (f"{tenant}-{at}" for at in range(3)) if name > after][:most]

    async def record_heads(self, streams: Sequence[StreamKey]) -> list[bytes]:
        return [b""] * len(streams)


@asynchronous
async def test_a_tenant_whose_streams_take_long_to_read_keeps_no_other_waiting() -> None:
    heads = Heads()
    standings = Standings(heads, SystemClock())
    both = [asyncio.create_task(standings.ordered("large", "score", Search(), "", 10)) for _ in range(2)]
    async with asyncio.timeout(10):
        await heads.begun.wait()
        other = await standings.ordered("small", "score", Search(), "", 10)
        assert other.names == ["small-0", "small-1", "small-2"]
        assert not any(one.done() for one in both)
        heads.may.set()
        assert [(await one).names for one in both] == [["large-0", "large-1", "large-2"]] * 2
    assert heads.asked == {"large": 1, "small": 1}
