"""What goes on beside the readings goes on whatever happens."""

from __future__ import annotations

import asyncio

import pytest

from gatewatch.service.background import Background, repeat
from gatewatch.service.errors import StoreUnavailable
from tests.support.asynchronous import asynchronous


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), RuntimeError("ours"), None])
@asynchronous
async def test_a_step_that_fails_is_taken_again(error: Exception | None) -> None:
    taken = asyncio.Event()
    steps = 0

    async def step() -> float:
        nonlocal steps
        steps += 1
        if steps > 2:
            taken.set()
        if error is not None:
            raise error
        return 0.0

    background = Background()
    background.start({"step": repeat(step, "not taken", 0.0)})
    await asyncio.wait_for(taken.wait(), 10)
    await background.stop()
    ended_at = steps
    await asyncio.sleep(0)
    assert steps == ended_at


@asynchronous
async def test_work_has_ended_when_the_stop_returns() -> None:
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    background = Background()
    background.start({"a": work("a"), "b": work("b")})
    await asyncio.sleep(0)
    await background.stop()
    assert sorted(ended) == ["a", "b"]
