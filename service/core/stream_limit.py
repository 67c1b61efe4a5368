"""StreamLimit: keeps the number of streams within its bound, while two batches beside each other begin new ones."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Final, Protocol

from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import ForeignValue, StoreUnavailable

RECOUNT_S: Final = 0.001
RECOUNTS: Final = 250
"""Looks whether the other batch has begun its streams; it takes some milliseconds. After the last one its streams count
as begun, so that two batches never wait for each other for ever."""


class Counts(Protocol):
    """What is asked of a store here."""

    async def count_streams(self, tenant: str) -> int:
        """How many streams a tenant has."""

    async def count_channels(self, tenant: str) -> int:
        """How many channels all streams of a tenant have."""


class Pace(Protocol):
    """How fast tenants may begin streams."""

    async def admit(self, tenant: str, streams: int) -> int:
        """How many of so many new streams a tenant may begin now; they count."""


class StreamLimits:
    """The bounds of all tenants."""

    def __init__(self, store: Counts, most_streams: int, pace: Pace | None, most_channels: int | None = None) -> None:
        """`most_streams`, `most_channels`: of each tenant."""
        self._store = store
        self._most = most_streams
        self._most_channels = most_channels
        self._pace = pace
        self._of: dict[str, StreamLimit] = {}

    @property
    def refusal(self) -> str:
        """What a reading gets that would begin one stream too many."""
        faster = "" if self._pace is None else ", or it begins them too fast (GATEWATCH_TENANT_NEW_STREAMS_PER_MINUTE)"
        return f"this would be a new stream, and the tenant has {self._most} already (GATEWATCH_STREAMS){faster}"

    async def admit(self, streams: Sequence[StreamKey], new: Sequence[StreamKey]) -> set[StreamKey]:
        """Which of the new ones among a batch's streams it may not begin; until `end` the others count."""
        refused: set[StreamKey] = set()
        for tenant in dict.fromkeys(stream.tenant for stream in new):
            limit = self._of.setdefault(tenant, StreamLimit(self._store, tenant, self._most, self._pace))
            begun = [stream for stream in new if stream.tenant == tenant]
            refused.update(begun[await limit.admit(streams, begun) :])
        return refused

    async def admit_channels(self, more: Sequence[tuple[StreamKey, int]]) -> list[str]:
        """Why streams of a batch may not have so many channels more; empty where they may.

        Those that other batches begin at the same moment are not seen: each may go beyond the bound by what it brings.
        """
        if self._most_channels is None:
            return [""] * len(more)
        counts: dict[str, int] = {}
        refused = []
        for stream, channels in more:
            if stream.tenant not in counts:
                try:
                    counts[stream.tenant] = await self._store.count_channels(stream.tenant)
                except StoreUnavailable:  # they cannot be counted, which is no reason to take nobody's readings
                    counts[stream.tenant] = 0
            count = counts[stream.tenant]
            if count + channels > self._most_channels:
                refused.append(
                    f"this would be {channels} more channels, and the tenant's streams have {count}; all together may "
                    f"have {self._most_channels} (GATEWATCH_TENANT_CHANNELS): delete streams that are not needed"
                )
                continue
            counts[stream.tenant] += channels
            refused.append("")
        return refused

    def end(self, streams: Collection[StreamKey]) -> None:
        """A batch of these streams is over: Redis counts those that it began."""
        for limit in self._of.values():
            limit.end(streams)


class StreamLimit:
    """A tenant's new streams in one process's batches under way. Other processes' are seen once Redis counts them."""

    def __init__(self, store: Counts, tenant: str, most_streams: int, pace: Pace | None) -> None:
        self._store = store
        self._tenant = tenant
        self._most = most_streams
        self._pace = pace
        self._begun: set[StreamKey] = set()  # Redis may not count them yet
        self._counts: list[set[StreamKey]] = []  # for each count under way, all that were begun meanwhile

    async def admit(self, streams: Sequence[StreamKey], new: Sequence[StreamKey]) -> int:
        """How many of the new ones among a batch's streams it may begin, the first ones; until `end` they count.

        Those that a batch under way begins may be counted twice: where it matters, its end is waited for.
        """
        for _ in range(RECOUNTS):
            begun = set(self._begun)
            self._counts.append(begun)
            try:
                count = await self._store.count_streams(self._tenant)
            except ForeignValue:  # they cannot be counted, which is no reason to take nobody's readings
                count = 0
            finally:
                self._counts = [other for other in self._counts if other is not begun]
            begun.difference_update(streams)
            room = self._most - count - len(begun)
            if room >= len(new) or not begun:
                break
            await asyncio.sleep(RECOUNT_S)
        admitted = min(max(0, room), len(new))
        if self._pace is not None:
            admitted = await self._pace.admit(self._tenant, admitted)
        for begun in (self._begun, *self._counts):
            begun.update(new[:admitted])
        return admitted

    def end(self, streams: Collection[StreamKey]) -> None:
        """A batch of these streams is over: Redis counts those that it began."""
        self._begun.difference_update(streams)
