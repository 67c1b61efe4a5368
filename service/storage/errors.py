"""Trouble with Redis: how long to wait for it, and what to say of what went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from types import TracebackType
from typing import Final, Protocol

from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

TIMEOUT_SLICES: Final = 5

LONGEST: Final = 4
"""An answer is waited for so many time-outs more, while Redis goes on to answer others: it is busy, and not away. Not
for longer: a connection that was dropped without a word looks the same."""


class Signs(Protocol):
    """Signs of life.

    Attributes:
        heard: grows with whatever comes from Redis.
    """

    @property
    def heard(self) -> int: ...


class Within:
    """Raise TimeoutError out of a block after `timeout_s` without a sign of life.

    A Redis that answers others meanwhile has work to do, mostly ours, and is waited for: LONGEST time-outs more.

    Of a time in which the loop itself was held up, by a thousand requests at once say, at most a fifth counts: the
    answer may have come long ago and nobody has looked. One stall of 300 ms would else fail all that wait.
    """

    __slots__ = ("_heard", "_left", "_limit", "_loop", "_passed", "_signs", "_slice_s", "_timer")

    def __init__(self, timeout_s: float, signs: Signs | None = None) -> None:
        self._left, self._passed = TIMEOUT_SLICES, 0
        self._slice_s = timeout_s / TIMEOUT_SLICES
        self._signs, self._heard = signs, 0 if signs is None else signs.heard

    async def __aenter__(self) -> None:
        self._limit = asyncio.timeout(None)
        await self._limit.__aenter__()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._slice_s, self._pass_slice)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(kind, error, trace)

    def _pass_slice(self) -> None:
        self._left -= 1
        self._passed += 1
        if self._signs is not None and self._signs.heard != self._heard and self._passed < LONGEST * TIMEOUT_SLICES:
            self._heard, self._left = self._signs.heard, TIMEOUT_SLICES
        if self._left == 0:
            self._limit.reschedule(self._loop.time())
        else:
            self._timer = self._loop.call_later(self._slice_s, self._pass_slice)


class Away(RedisError):
    """Keys with some hash tags are on a node of a Cluster that is in trouble; the trouble is the cause."""

    def __init__(self, tags: Collection[bytes], trouble: Exception) -> None:
        super().__init__(str(trouble))
        self.tags = frozenset(tags)
        self.__cause__ = trouble


class TooFewReplicas(RedisError):
    """What was saved is on the server, and not on as many replicas as it should be."""


_REASONS: Final = {
    (
        "MOVED",
        "ASK",
        "TRYAGAIN",
        "CLUSTERDOWN",
        "CROSSSLOT",
    ): "Redis is a node of a Cluster, and the slot is elsewhere, "
    "being moved or not served; the URL of a Cluster begins with redis+cluster://",
    ("READONLY",): "Redis is a replica, which takes no writes; the next try connects anew",
    ("MASTERDOWN",): "Redis is a replica that has lost its master; the next try connects anew",
    ("LOADING",): "Redis has been started and is still reading its data",
    ("max number of clients",): "Redis has as many clients as it takes (its maxclients)",
    ("OOM",): "Redis is full (its maxmemory)",
    ("MISCONF",): "Redis takes no writes because it cannot write its file",
    ("NOREPLICAS",): "Redis takes no writes because it has too few replicas",
    ("NOPERM",): "Redis refused a command that its user may not use (the service's log says which)",
}
"""What stands in an error of Redis, and what it means to a caller."""

ELSEWHERE: Final = ("READONLY", "MASTERDOWN", "LOADING")


def _words(error: BaseException) -> str:
    """What Redis said, its code first; redis-py wraps that of a new connection."""
    said = [one for one in (error, error.__cause__) if one is not None]
    return " ".join(f"{getattr(one, 'status_code', None) or ''} {one}" for one in said)


def is_elsewhere(error: Exception) -> bool:
    """Whether another server than this one may have the address by now, so that all must connect anew."""
    words = _words(error)
    return any(code in words for code in ELSEWHERE)


def trouble_of(error: Exception) -> str:
    """What is wrong with Redis, for a caller; the error itself is for the log."""
    if isinstance(error, (TimeoutError, RedisTimeoutError)):
        return "Redis did not answer in time"
    if isinstance(error, Away) and isinstance(error.__cause__, Exception):
        return trouble_of(error.__cause__)
    if isinstance(error, TooFewReplicas):
        return f"Redis has it, but only {error} (GATEWATCH_STORE_REPLICAS) had taken it in time"
    if isinstance(error, RedisError):
        words = _words(error)
        for codes, reason in _REASONS.items():
            if any(code in words for code in codes):
                return reason
    refused = (ResponseError, AuthenticationError)
    if isinstance(error, refused) or isinstance(error.__cause__, refused):
        return "Redis refused a command (the service's log says why)"
    return "Redis cannot be reached"
