"""A Redis that answers others meanwhile is busy and not away: its answer is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest
import uvloop

from gatewatch.service.errors import StoreUnavailable
from gatewatch.service.storage.store import StateStore

TIMEOUT_MS = 200

LOOPS = pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
Loop = Callable[[], asyncio.AbstractEventLoop]


@LOOPS
@pytest.mark.parametrize(
    ("answers_others", "times", "answered"), [(True, 3, True), (False, 3, False), (True, 99, False)]
)
def test_an_answer_is_waited_for_while_redis_answers_others(
    redis_url: str, tenant: str, loop_factory: Loop, answers_others: bool, times: int, answered: bool
) -> None:
    """For longer than the time-out, but not for ever. A list that stays empty stands for a long line of work."""

    async def wait() -> bool:
        store = StateStore(redis_url, tenant, TIMEOUT_MS)

        async def keep_asking() -> None:
            while True:
                await store.ask([b"PING"])
                await asyncio.sleep(0.01)

        others = asyncio.create_task(keep_asking()) if answers_others else None
        try:
            async with store.within("wait"):
                await store.ask_one(b"BLPOP", tenant.encode(), b"%f" % (times * TIMEOUT_MS / 1000))
        except StoreUnavailable:
            return False
        finally:
            if others is not None:
                others.cancel()
                with suppress(asyncio.CancelledError):
                    await others
            await store.close()
        return True

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(wait()) is answered
