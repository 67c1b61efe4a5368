"""Expiry: streams that nobody uses any more are forgotten.

One process of all looks, page after page, and rests many times as long as a page took: so a million streams cost a
twentieth of a process for some minutes, now and then, and no reading anything. A stream is forgotten in one step that
compares its fence: one that sends at that moment stays or, if it was the first, begins anew with what it sent.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

import structlog

from gatewatch.service.background import repeat
from gatewatch.service.clock import Clock
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.observability.metrics import Metrics

_drawn = random.Random()  # noqa: S311 - it spreads work
log = structlog.get_logger(__name__)

PAGE: Final = 256
"""Streams looked at together; some 5 ms of Redis and of this process."""

REST: Final = 19.0
"""Times what a page took."""

ROUNDS: Final = 10
"""In the time that a stream may be unused; it is forgotten at most a tenth of that too late."""

LONGEST_S: Final = 3600.0
SHOWN: Final = 10
DAY_S: Final = 86_400


class Unused(Protocol):
    """Where it is kept since when streams are unused; service/storage/unused_streams.py is it in Redis."""

    @property
    def buckets(self) -> int:
        """In how many parts the list of streams lies."""

    async def lease(self, process: str) -> bool:
        """Whether this process looks, and no other one for a while."""

    async def page(self, tenant: str, bucket: int, after: bytes, most: int) -> list[bytes]:
        """The next names of a tenant's streams in a part."""

    async def look(self, tenant: str, bucket: int, names: Sequence[bytes], now_s: int, unused_s: float) -> list[str]:
        """Look at streams, and forget those that have not moved for so long; which these were."""


class Expiry:
    """Looks, until it is cancelled."""

    def __init__(
        self,
        unused: Unused,
        tenants: Callable[[], Iterable[str]],
        metrics: Metrics,
        clock: Clock,
        days: float,
        on_gone: Callable[[Sequence[StreamKey]], Awaitable[None]],
    ) -> None:
        """Look at the streams of these tenants.

        Args:
            days: that a stream may be unused.
            on_gone: is told of streams that were forgotten; again, where it raises StoreUnavailable.
        """
        self._on_gone = on_gone
        self._untold: list[StreamKey] = []
        self._unused = unused
        self._tenants = tenants
        self._metrics = metrics
        self._clock = clock
        self._unused_s = days * DAY_S
        self._me = uuid.uuid4().hex

    async def run(self) -> None:
        """Look, round after round."""
        rest_s = min(LONGEST_S, self._unused_s / ROUNDS)

        async def step() -> float:
            if await self._unused.lease(self._me):
                await self.round()
            return rest_s

        await repeat(step, "unused streams not looked for", rest_s)

    async def round(self) -> int:
        """Look at all streams once, or until another process looks; how many were forgotten."""
        parts = [(tenant, bucket) for tenant in sorted(set(self._tenants())) for bucket in range(self._unused.buckets)]
        _drawn.shuffle(parts)  # a process that is always stopped in the middle comes to each all the same
        expired = 0
        await self._tell()
        for tenant, bucket in parts:
            after: bytes | None = b""
            while after is not None:
                began = self._clock.monotonic()
                names = await self._unused.page(tenant, bucket, after, PAGE)
                if names:
                    expired += await self._look(tenant, bucket, names)
                after = names[-1] if len(names) == PAGE else None
                await asyncio.sleep(REST * (self._clock.monotonic() - began))
                if not await self._unused.lease(self._me):
                    return expired
        return expired

    async def _look(self, tenant: str, bucket: int, names: list[bytes]) -> int:
        now_s = self._clock.unix_ms() // 1000
        gone = await self._unused.look(tenant, bucket, names, now_s, self._unused_s)
        self._untold += [StreamKey(tenant, name) for name in gone]
        if gone:
            self._metrics.expired(len(gone))
            log.info("unused streams forgotten", streams=len(gone), tenant=tenant, first=gone[:SHOWN])
        await self._tell()
        return len(gone)

    async def _tell(self) -> None:
        if self._untold:
            await self._on_gone(self._untold)
            self._untold = []
