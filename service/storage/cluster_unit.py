"""ClusterUnit: the records of a batch's streams on several nodes, from their load until they are saved."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gatewatch.service.core.store import Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import StoreUnavailable

if TYPE_CHECKING:
    from gatewatch.service.storage.cluster_store import ClusterStore


class ClusterUnit:
    """A UnitOfWork over several nodes. Records in the cache are not loaded: the scripts that save compare them.

    Attributes:
        packed: the records as bytes, None for a stream without one.
        unsure: whether what was sent may have been saved though `saved` says that it was not.
        failed: streams that could not be saved, and why.
    """

    def __init__(self, store: ClusterStore, streams: Sequence[StreamKey], cached: bool) -> None:
        self._store = store
        self._streams = streams
        self._keys = store.keys.of(streams)
        self._cached = store.record_cache.of([key.record for key in self._keys]) if cached else None
        self._saving: asyncio.Task[tuple[list[bool], dict[bytes, Exception]]] | None = None
        self._writes = Writes(0.0)
        self.packed: Sequence[bytes | None] = self._cached or []
        self.unsure = False
        self.failed: Mapping[StreamKey, StoreUnavailable] = {}

    @property
    def from_cache(self) -> bool:
        """Whether the records are what this process saved last."""
        return self._cached is not None

    async def load(self) -> None:
        """Read the records unless they were cached. Raises PartlyUnavailable."""
        if self._cached is None:
            self.packed = await self._store.load(self._streams)
            self._store.record_cache.compare([key.record for key in self._keys], self.packed, together=False)

    async def confirmed(self, compared: bool) -> bool:
        """Whether the records are what they were taken for; where they are not, they are forgotten.

        Args:
            compared: everything is to be saved, so that the scripts that compare will find out.
        """
        if self._cached is None or compared:
            return True
        if not (same := await self._store.load(self._streams) == self._cached):
            self.forget()
        return same

    def forget(self) -> None:
        """Have the records loaded the next time."""
        self._store.record_cache.forget(key.record for key in self._keys)

    async def send(self, writes: Writes) -> None:
        """Send what is to be saved; `saved` waits for the replies, and meanwhile there is time for other things."""
        self._writes = writes
        if writes.streams:
            of = self._store.keys.of(writes.streams)
            if writes.alerts:
                self._store.note_alerts(writes, of)
            before = dict(zip(self._streams, self.packed, strict=True))
            expected = [before[stream] or b"" for stream in writes.streams]  # a person may leave the fence as it is
            self._saving = asyncio.create_task(self._store.save_buckets(writes, of, expected))

    async def saved(self) -> list[bool]:
        """Which of the streams sent were saved: not those that another process wrote since, nor those that failed."""
        if self._saving is None:
            return []
        writes = self._writes
        async with self._store.within(f"save {len(writes.streams)} states"):
            saved, failed = await self._saving
        of = self._store.keys.of(writes.streams)
        if failed:
            self.unsure = True
            self.failed = self._store.trouble_with(writes.streams, failed)
        elif self._cached is not None:
            self._store.record_cache.learn(saved.count(False) / len(saved))
        self._store.record_cache.note([key.record for key in of], writes.records, saved)
        return saved
