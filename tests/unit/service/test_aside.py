"""Work in slices: nobody waits for all of it."""

from __future__ import annotations

import asyncio

from gatewatch.service.aside import SLICE, in_slices
from tests.support.asynchronous import asynchronous


@asynchronous
async def test_others_have_their_turn_after_each_slice() -> None:
    turns: list[str] = []

    async def other() -> None:
        while len(turns) < 3 * SLICE:
            turns.append("other")
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    given = list(range(2 * SLICE + 1))
    taken: list[int] = []
    async for item in in_slices(given):
        turns.append("item")
        taken.append(item)
    assert taken == given
    assert [turns[at] for at in (SLICE - 1, SLICE, SLICE + 1, 2 * SLICE + 1)] == ["item", "other", "item", "other"]
    beside.cancel()
