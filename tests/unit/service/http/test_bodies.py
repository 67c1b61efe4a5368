"""What bodies may take of memory is shared between tenants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gatewatch.service.errors import TooManyWaiting
from gatewatch.service.http.bodies import FREE_BYTES, Bodies, Body
from tests.support.asynchronous import asynchronous

MOST = 10_000_000
PLAIN: dict[bytes, str] = {}


async def read(body: Body, sizes: Sequence[int]) -> int:
    """Bytes of a body that comes in pieces of so many bytes."""
    pieces = [{"type": "http.request", "body": b" " * size, "more_body": True} for size in sizes]
    pieces[-1]["more_body"] = False
    coming = iter(pieces)

    async def receive() -> dict[str, Any]:
        return next(coming)

    return len(await body.read(receive))


@asynchronous
async def test_a_tenant_that_has_filled_the_room_leaves_another_its_share_and_no_more() -> None:
    bodies = Bodies(5_000_000, MOST)
    first, second, third = (bodies.of(PLAIN, "one") for _ in range(3))
    with first, second, third:
        for body in (first, second):
            assert await read(body, [2_500_000, 2_500_000]) == 5_000_000
        with pytest.raises(TooManyWaiting, match=f"at most {MOST} are held"):
            await read(third, [1_000_000])
        with bodies.of(PLAIN, "two") as other, bodies.of(PLAIN, "two") as more:
            assert await read(other, [2_500_000, 2_400_000]) == 4_900_000
            with pytest.raises(TooManyWaiting):
                await read(more, [1_000_000])
            with bodies.of(PLAIN, "three") as share:
                assert await read(share, [3_000_000]) == 3_000_000
            with bodies.of(PLAIN, "four") as small:
                assert await read(small, [FREE_BYTES]) == FREE_BYTES
            assert set(bodies.held) == {"one", "two"}
    assert not bodies.held


@asynchronous
async def test_however_many_tenants_there_are_bodies_hold_at_most_twice_what_they_may() -> None:
    bodies = Bodies(MOST, MOST)
    held = []
    for at in range(100):
        body = bodies.of(PLAIN, f"tenant-{at}")
        held.append(body)
        try:
            await read(body, [MOST // 8] * 8)
        except TooManyWaiting:
            assert bodies.held.total() <= 2 * MOST
    assert MOST < bodies.held.total() <= 2 * MOST
