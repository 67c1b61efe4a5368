"""Trouble with Redis: how long to wait for it, and what to say of what went wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from redis.exceptions import AuthenticationError, BusyLoadingError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

TIMEOUT_SLICES: Final = 5


@contextlib.asynccontextmanager
async def within(timeout_s: float | None) -> AsyncIterator[None]:
    """Raise TimeoutError after `timeout_s` in which the event loop ran.

    Of a time in which the loop itself was held up, by a thousand requests at once say, at most a fifth counts: the
    answer may have come long ago and nobody has looked. One stall of 300 ms would else fail all that wait.
    """
    async with asyncio.timeout(None) as limit:
        if timeout_s is None:
            yield
            return
        loop = asyncio.get_running_loop()
        slice_s, left = timeout_s / TIMEOUT_SLICES, TIMEOUT_SLICES
        timer: asyncio.TimerHandle

        def pass_slice() -> None:
            nonlocal left, timer
            left -= 1
            timer = loop.call_later(slice_s, pass_slice)
            if left == 0:
                limit.reschedule(loop.time())

        timer = loop.call_later(slice_s, pass_slice)
        try:
            yield
        finally:
            timer.cancel()


def trouble_of(error: Exception) -> str:
    """What is wrong with Redis, for a caller; the error itself is for the log."""
    if isinstance(error, (TimeoutError, RedisTimeoutError)):
        return "Redis did not answer in time"
    if isinstance(error, BusyLoadingError):
        return "Redis has been started and is still reading its data"
    if isinstance(error, (ResponseError, AuthenticationError)):
        return "Redis refused a command (the service's log says why)"
    return "Redis cannot be reached"
