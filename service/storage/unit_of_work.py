"""UnitOfWork: the records of a batch's streams, from their load until they are saved."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.exceptions import NoScriptError, ResponseError

from gatewatch.service.core.store import Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import StoreUnavailable
from gatewatch.service.storage import encoder
from gatewatch.service.storage.connection import BatchConnection, ConnectionLost, any_error, raise_first
from gatewatch.service.storage.database import Database, again_if_lost
from gatewatch.service.storage.record_cache import RecordCache

FEW: Final = 32
"""Streams whose cached records a script compares and saves, in one round trip. Of more, Redis watches and sends the
records and saves them in one transaction: 13 instead of 19 µs a stream (`python -m benchmarks.saving`)."""


class UnitOfWork:
    """The records of some streams, on a connection of their own. What is saved of them is saved only if they stand.

    Records in the cache are not waited for. Of a few streams, the script that saves compares them; of many, they are
    watched and read all the same, and compared here, when the work on them is done: see `confirmed`. All buckets of a
    server are saved in one transaction.

    Attributes:
        packed: the records as bytes, None for a stream without one.
        unsure: whether what was sent may have been saved though `saved` says that it was not.
        failed: streams that could not be saved, and why; of one server all fail together, and `saved` raises that.
    """

    unsure = False
    failed: Mapping[StreamKey, StoreUnavailable] = {}

    def __init__(
        self,
        database: Database,
        connection: BatchConnection,
        record_cache: RecordCache[bytes],
        streams: Sequence[StreamKey],
        cached: bool,
    ) -> None:
        self._database = database
        self._connection = connection
        self._record_cache = record_cache
        self._streams = streams
        self._all_keys = database.keys
        self._keys = database.keys.of(streams)
        self._cached = record_cache.of([key.record for key in self._keys]) if cached else None
        self.packed: Sequence[bytes | None] = self._cached or []
        self._watched = self._cached is None or len(streams) > FEW
        self._coming = 0  # replies to the load
        self._sent: tuple[Writes, int] | None = None

    @property
    def from_cache(self) -> bool:
        """Whether the records are what this process saved last."""
        return self._cached is not None

    async def load(self) -> None:
        """Watch and read the records; wait for them unless they were cached."""
        if not self._watched and not self._connection.needs_try:
            return
        async with self._database.within(f"load {len(self._streams)} states"):
            await again_if_lost(self._begin)  # nothing is written yet
            if self._database.moving and None in self.packed:
                missing = [s for s, record in zip(self._streams, self.packed, strict=True) if record is None]
                if await self._database.move(missing):
                    await again_if_lost(self._begin)

    async def _begin(self) -> None:
        await self._connection.open()
        if self._watched:
            commands, self._coming = encoder.watch_and_load(self._keys)
            self._connection.send(commands)
        if self._cached is None:
            self.packed = await self._loaded()
            self._record_cache.compare([key.record for key in self._keys], self.packed, len(self._keys) > FEW)

    async def confirmed(self, compared: bool) -> bool:
        """Whether the records are what they were taken for, before anything is done that follows from them.

        Where they are not, they are forgotten.

        Args:
            compared: everything is to be saved, so that a script that compares will find out.
        """
        if self._cached is None:
            return True
        if not (same := compared if not self._watched else await self._stands()):
            self.forget()
        return same

    def forget(self) -> None:
        """Have the records loaded the next time."""
        self._record_cache.forget(key.record for key in self._keys)

    async def _stands(self) -> bool:
        async with self._database.within(f"load {len(self._streams)} states"):
            try:
                same = await self._loaded() == self._cached
            except ConnectionLost:
                return False
        self._record_cache.learn(float(not same))
        return same

    async def _loaded(self) -> list[bytes | None]:
        replies = await self._connection.replies(self._coming)
        raise_first(replies)  # of a WATCH that was refused too: nothing would stand between two writers
        records: list[bytes | None] = replies[-1]
        return records

    async def send(self, writes: Writes) -> None:
        """Send what is to be saved; `saved` waits for the reply, and meanwhile there is time for other things."""
        database = self._database
        if writes.streams is not self._streams:
            self._keys = self._all_keys.of(writes.streams)
        of = self._keys
        database.note_new(writes, of)
        if writes.alerts:
            database.note_alerts(writes, of)
        if self._watched:
            whole, count = encoder.transaction(self._all_keys, writes, of)
        else:
            whole, count = encoder.comparison(self._all_keys, writes, of, self._cached or ())
        self._sent = writes, count
        async with database.translated(f"save {len(of)} states"):
            with contextlib.suppress(ConnectionLost):  # which `saved` will meet as well
                self._connection.send(whole + database.wait)

    async def saved(self) -> list[bool]:
        """Which of the streams sent were saved: all, unless another process wrote one of them since the load.

        If the connection is lost they are sent again, stream by stream, each with what it must find: those that were
        saved after all are then not saved again, and count as written by another process.
        """
        if self._sent is None:
            return []
        writes, count = self._sent
        async with self._database.within(f"save {len(writes.streams)} states"):
            try:
                replies = await self._connection.replies(count + bool(self._database.wait))
                replies, waited = replies[:count], replies[count:]
                saved = await (self._committed(writes, replies) if self._watched else self._compared(replies))
                self._database.check_wait(waited if saved is not None else [])
            except ConnectionLost:
                saved, self.unsure = None, True
        if saved is None:
            before = dict(zip(self._streams, self.packed, strict=True))
            expected = [before[stream] or b"" for stream in writes.streams]  # a person may leave the fence as it is
            saved = await self._database.save(writes, expected)  # stream by stream, to find out whose it was
        if self._cached is not None and not self._watched:
            self._record_cache.learn(saved.count(False) / len(saved))
        self._record_cache.note([key.record for key in self._keys], writes.records, saved)
        return saved

    async def _committed(self, writes: Writes, replies: list[Any]) -> list[bool] | None:
        """What a transaction came to: all or, without an answer, nothing."""
        raise_first(replies)
        if replies[-1] is None:
            return None
        done = replies[-1]
        end = len(done) - len(encoder.sets_of(self._keys))
        first = bool(writes.anew)
        pieces, rest = done[first : first + len(writes.slots)], done[first + len(writes.slots) :]
        if any_error(pieces):
            slots = zip(writes.slots, pieces, strict=True)
            foreign = [slot for slot, written in slots if isinstance(written, ResponseError)]
            await self._database.replace_histories(self._keys, foreign)
        raise_first([error for error in rest if "WRONGTYPE" not in str(error)])  # foreign sets fail no reading
        counts = [-1 if isinstance(count, Exception) else int(count) for count in done[end:]]
        return await self._database.note_saved(self._keys, [*[1] * len(self._keys), *counts])

    async def _compared(self, replies: list[Any]) -> list[bool] | None:
        """What the script came to; nothing if Redis does not know it."""
        (reply,) = replies
        if isinstance(reply, NoScriptError):
            return None
        raise_first(replies)
        return await self._database.note_saved(self._keys, reply)
