"""Quotas: how many readings, bytes and requests a second a tenant may send, and how many streams it may begin.

All processes share them. New streams are few, and Redis is asked for each batch that has some (NewStreams). Readings,
bytes and requests are many (Quota): a tenant has a bucket in Redis, which fills at the rate, up to READY_S of it, and
which requests empty. A process does not ask Redis for each request. It keeps a copy of the bucket, takes from that, and
SYNC_S after the first taking tells Redis what it took and hears what is left. So processes, which do not know of each
other's last tenth of a second, take at most that much too much; the bucket then lacks it, and the rate holds over any
longer time.

A request is taken whole as long as anything is left, so that a large one is not refused for ever.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Final, Literal

import structlog

from gatewatch.service.access.redis_keys import of_tenant
from gatewatch.service.access.scopes import Scope
from gatewatch.service.errors import OverLimit, StoreUnavailable
from gatewatch.service.storage.database import Database

log = structlog.get_logger(__name__)

SYNC_S: Final = 0.1
READY_S: Final = 2.0
"""Seconds of its rate that a tenant that was silent may send at once."""

IDLE_S: Final = 60.0
"""After so long a process forgets its copy of a bucket that nobody takes from."""

_TAKE: Final = b"""
local now = redis.call('TIME')
local at, full = now[1] + now[2] / 1e6, tonumber(ARGV[2])
local left, was, since = full, redis.call('HGET', KEYS[1], 'left'), redis.call('HGET', KEYS[1], 'at')
if was and since then
  left = math.min(full, tonumber(was) + math.max(0, at - tonumber(since)) * tonumber(ARGV[1]))
end
left = left - tonumber(ARGV[3])
redis.call('HSET', KEYS[1], 'left', tostring(left), 'at', string.format('%.6f', at))
return tostring(left)"""


_BEGIN: Final = b"""
local now = redis.call('TIME')
local at, full = now[1] + now[2] / 1e6, tonumber(ARGV[1])
local left, was, since = full, redis.call('HGET', KEYS[1], 'left'), redis.call('HGET', KEYS[1], 'at')
if was and since then
  left = math.min(full, tonumber(was) + math.max(0, at - tonumber(since)) * full / 60)
end
local taken = math.min(tonumber(ARGV[2]), math.floor(left))
redis.call('HSET', KEYS[1], 'left', tostring(left - taken), 'at', string.format('%.6f', at))
return taken"""


Counted = Literal["readings", "bytes", "posts", "reads", "changes"]
"""What is counted: requests are posts of readings, reads and changes."""


class NewStreams:
    """The streams that tenants may begin in a minute: a bucket each, which fills in a minute."""

    def __init__(self, database: Database, per_minute: int) -> None:
        self._database = database
        self._per_minute = b"%d" % per_minute

    async def admit(self, tenant: str, streams: int) -> int:
        """How many of so many new streams a tenant may begin now; they count. Raises StoreUnavailable."""
        if not streams:
            return 0
        async with self._database.within("count new streams"):
            taken: int = await self._database.ask_one(
                b"EVAL", _BEGIN, b"1", of_tenant(tenant, "new-streams"), self._per_minute, b"%d" % streams, twice=False
            )
        return taken


class _Copy:
    """A process's copy of a tenant's bucket, as it was `at` (monotonic seconds); `taken` since it was compared."""

    __slots__ = ("at", "left", "taken", "used")

    def __init__(self, left: float, at: float) -> None:
        self.left, self.at, self.taken, self.used = left, at, 0, at


class Quota:
    """How much of something every tenant may send in a second; see the module's text."""

    def __init__(self, database: Database, what: Counted, per_s: float | None) -> None:
        """`per_s`: of each tenant; None for no limit."""
        self._database = database
        self._what = what
        self._rate = math.inf if per_s is None else per_s
        self._copies: dict[str, _Copy] = {}
        self._syncing: asyncio.Task[None] | None = None

    def take(self, tenant: str, amount: int) -> None:
        """Count what a request has. Raises OverLimit when nothing is left; then none of it counts."""
        if self._rate != math.inf and amount:
            self._checked(tenant)
            self.note(tenant, amount)

    def note(self, tenant: str, amount: int) -> None:
        """Count what was done already; nothing is refused."""
        if self._rate == math.inf or not amount:
            return
        copy = self._copy(tenant)
        copy.left -= amount
        copy.taken += amount
        if self._syncing is None:
            self._syncing = asyncio.create_task(self._sync(), name="quotas")

    def check(self, tenant: str) -> None:
        """Raise OverLimit when nothing is left, before it is known how much a request has."""
        if self._rate != math.inf:
            self._checked(tenant)

    def _copy(self, tenant: str) -> _Copy:
        """A tenant's copy, as it is now."""
        copy, now = self._copies.get(tenant), time.monotonic()
        if copy is None:
            copy = self._copies[tenant] = _Copy(self._rate * READY_S, now)
        copy.left = min(self._rate * READY_S, copy.left + (now - copy.at) * self._rate)
        copy.at = copy.used = now
        return copy

    def _checked(self, tenant: str) -> None:
        copy = self._copy(tenant)
        if copy.left <= 0:
            wait_s = (1 - copy.left) / self._rate
            raise OverLimit(
                f"these are more than {self._rate:g} {self._what} a second of the tenant "
                f"(GATEWATCH_TENANT_{self._what.upper()}_PER_S); send them again after the time in Retry-After",
                wait_s,
            )

    async def _sync(self) -> None:
        """Compare the copies with Redis until nobody takes anything any more."""
        while self._copies:
            await asyncio.sleep(SYNC_S)
            now = time.monotonic()
            for tenant, copy in [*self._copies.items()]:
                if now - copy.used > IDLE_S and not copy.taken:
                    del self._copies[tenant]
            told = {tenant: copy.taken for tenant, copy in self._copies.items() if copy.taken or now - copy.used < 1}
            if told:
                await self._tell(told)
        self._syncing = None

    async def _tell(self, told: dict[str, int]) -> None:
        rate, full = b"%.6f" % self._rate, b"%.6f" % (self._rate * READY_S)
        commands = [
            (b"EVAL", _TAKE, b"1", of_tenant(tenant, self._what), rate, full, b"%d" % taken)
            for tenant, taken in told.items()
        ]
        try:
            async with self._database.within(f"count the {self._what} of tenants"):
                found = await self._database.ask_each(commands)
        except StoreUnavailable:
            return  # readings get 503 as well, and what was taken is told later
        for (tenant, taken), left in zip(told.items(), found, strict=True):
            copy = self._copies[tenant]
            copy.taken -= taken
            if isinstance(left, bytes):
                copy.left, copy.at = float(left) - copy.taken, time.monotonic()
            else:
                log.warning(f"{self._what} of a tenant are counted in each process alone", error=str(left))

    def stop(self) -> None:
        """Compare no more."""
        if self._syncing is not None:
            self._syncing.cancel()


class RequestLimits:
    """How many requests of each kind every tenant may send in a second.

    Attributes:
        posts: of readings; who answers those without asking `count` takes from it himself.
    """

    def __init__(self, posts: Quota, reads: Quota, changes: Quota) -> None:
        self.posts = posts
        self._reads = reads
        self._changes = changes

    def count(self, tenant: str, changes: bool, scope: Scope) -> None:
        """Count a request, but for those of `metrics`: who watches the service must see it. Raises OverLimit.

        Args:
            changes: whether it may change anything.
            scope: that it needs.
        """
        if scope == "ingest":
            self.posts.take(tenant, 1)
        elif scope != "metrics":
            (self._changes if changes else self._reads).take(tenant, 1)

    def stop(self) -> None:
        """Compare no more."""
        for quota in (self.posts, self._reads, self._changes):
            quota.stop()
