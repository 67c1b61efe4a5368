"""Trouble with Redis: how long to wait for it, and what to say of what went wrong."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, cast

from redis.exceptions import AuthenticationError, BusyLoadingError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

TIMEOUT_SLICES: Final = 5


class Within:
    """Raise TimeoutError out of a block after `timeout_s` in which the event loop ran; None waits for ever.

    Of a time in which the loop itself was held up, by a thousand requests at once say, at most a fifth counts: the
    answer may have come long ago and nobody has looked. One stall of 300 ms would else fail all that wait.
    """

    __slots__ = ("_left", "_limit", "_loop", "_slice_s", "_timer")

    def __init__(self, timeout_s: float | None) -> None:
        self._left = TIMEOUT_SLICES
        self._slice_s = None if timeout_s is None else timeout_s / TIMEOUT_SLICES

    async def __aenter__(self) -> None:
        self._limit = asyncio.timeout(None)
        await self._limit.__aenter__()
        self._loop = asyncio.get_running_loop()
        self._timer = None if self._slice_s is None else self._loop.call_later(self._slice_s, self._pass_slice)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._limit.__aexit__(kind, error, trace)

    def _pass_slice(self) -> None:
        self._left -= 1
        self._timer = self._loop.call_later(cast(float, self._slice_s), self._pass_slice)
        if self._left == 0:
            self._limit.reschedule(self._loop.time())


def trouble_of(error: Exception) -> str:
    """What is wrong with Redis, for a caller; the error itself is for the log."""
    if isinstance(error, (TimeoutError, RedisTimeoutError)):
        return "Redis did not answer in time"
    if isinstance(error, BusyLoadingError):
        return "Redis has been started and is still reading its data"
    refused = (ResponseError, AuthenticationError)
    if isinstance(error, refused) or isinstance(error.__cause__, refused):  # redis-py wraps that of a new connection
        return "Redis refused a command (the service's log says why)"
    return "Redis cannot be reached"
