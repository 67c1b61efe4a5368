"""StateStore over Redis: load, compare-and-set, history. Knows bytes and keys, nothing of what is in them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

from service.messages.errors import StoreUnavailable
from service.storage.database import Database, text
from service.storage.held import Held
from service.storage.remembered import Remembered

REMEMBERED_BYTES = 64 * 2**20


class StateStore(Database):
    """The states of one tenant's streams in Redis."""

    def __init__(self, url: str, tenant: str, timeout_ms: int, remembered_bytes: int = REMEMBERED_BYTES) -> None:
        """Raises ValueError when `url` is not a Redis URL; connects with the first command."""
        super().__init__(url, tenant, timeout_ms)
        self._epoch: bytes | None = None
        self.remembered = Remembered(remembered_bytes)

    def seeds(self, streams: Sequence[str]) -> list[int]:
        """Where the checksums of the streams' records start."""
        return [self.commands.of(stream).seed for stream in streams]

    def key(self, stream: str, what: str) -> str:
        """`gatewatch:{base64url(tenant).base64url(stream)}:what`: unambiguous, one cluster slot for a stream."""
        return self.commands.key(stream, what)

    async def load(self, streams: Sequence[str]) -> list[bytes | None]:
        """The streams' records as bytes, None for a stream without one. One round trip."""
        async with self.translated(f"load {len(streams)} states"):
            return cast(
                "list[bytes | None]", await self._redis.mget([self.commands.of(stream).record for stream in streams])
            )

    async def load_histories(self, streams: Sequence[str]) -> list[bytes]:
        """The streams' history rings as bytes, empty for a stream without one. One round trip."""
        return await self._load_values([self.commands.of(stream).history for stream in streams], "histories")

    async def load_settings(self, streams: Sequence[str]) -> list[bytes]:
        """What was saved as the streams' settings, empty for a stream without any. One round trip."""
        return await self._load_values([self.key(stream, "settings").encode() for stream in streams], "settings")

    async def load_earlier(self, streams: Sequence[str]) -> list[list[bytes]]:
        """The two earlier records of streams with a reorder window, empty where there is none. One round trip."""
        keys = [key for stream in streams for key in self.commands.earlier_keys(stream)]
        loaded = await self._load_values(keys, "earlier records")
        return [loaded[at : at + 2] for at in range(0, len(loaded), 2)]

    async def _load_values(self, keys: Sequence[bytes], what: str) -> list[bytes]:
        async with self.translated(f"load {len(keys)} {what}"):
            return [value or b"" for value in cast("list[bytes | None]", await self._redis.mget(keys))]

    async def save_settings(self, stream: str, settings: bytes) -> None:
        """Keep a stream's settings, for the day its record is lost."""
        async with self.translated("save settings"):
            await self._redis.set(self.key(stream, "settings"), settings)

    async def quarantine(self, stream: str, record: bytes) -> None:
        """Keep a copy of a record that cannot be read, for a look later; the last one of a stream stays."""
        async with self.translated("quarantine a record"):
            await self._redis.set(self.key(stream, "quarantine"), record)

    async def delete(self, stream: str) -> bool:
        """Forget a stream; says whether there was anything of it."""
        self.remembered.forget((stream,))
        whats = ("state", "history", "earlier:0", "earlier:1", "settings", "quarantine")
        async with self.translated("delete a stream"), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.delete(*(self.key(stream, what) for what in whats))
            pipeline.zrem(self.commands.open_key, stream)
            pipeline.zrem(self.commands.streams_key, stream)
            return bool((await pipeline.execute())[0])

    @contextlib.asynccontextmanager
    async def hold(self, streams: Sequence[str], remembered: bool = False) -> AsyncIterator[Held]:
        """Load the records of streams, each named once, and hold them until they are saved.

        With `remembered`, records that this process saved last are not waited for; see Held.
        """
        known = self.remembered.of(streams) if remembered else None
        try:
            async with self.link() as link:
                held = Held(self, link, self.remembered, streams, known)
                await held.load()
                yield held
        except BaseException:
            self.remembered.forget(streams)
            raise

    async def count_streams(self) -> int:
        """How many streams there are."""
        async with self.translated("count streams"):
            return int(await self._redis.zcard(self.commands.streams_key))

    async def list_streams(self, after: str, most: int) -> list[str]:
        """Up to `most` names in alphabetical order, those that come behind `after`."""
        async with self.translated("list streams"):
            found = await self._redis.zrange(
                self.commands.streams_key, f"({after}" if after else "-", "+", bylex=True, offset=0, num=most
            )
            return [name.decode() for name in cast("list[bytes]", found)]

    async def count_open(self, within_s: float) -> int:
        """How many streams have an open anomaly and sent a reading within the last `within_s` seconds."""
        async with self.translated("count open anomalies"):
            return int(await self._redis.zcount(self.commands.open_key, time.time() - within_s, "+inf"))

    async def check(self, strict: bool) -> None:
        """Ask Redis whether it keeps states: it answers, never evicts, and has an append-only file if `strict`.

        Raises:
            StoreUnavailable: says what Redis answered and what to change.
        """
        async with self.translated("check Redis"):
            memory: dict[str, Any] = await self._redis.info("memory")
            persistence: dict[str, Any] = await self._redis.info("persistence") if strict else {}
            fsync: dict[Any, Any] = await self._redis.config_get("appendfsync") if strict else {}
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        if int(memory.get("maxmemory", 0)) and policy != "noeviction":
            raise StoreUnavailable(
                f"Redis may evict stream states: maxmemory-policy is {policy}; expected noeviction "
                "(redis-cli CONFIG SET maxmemory-policy noeviction)"
            )
        if strict and not (persistence.get("aof_enabled") and text(fsync.get("appendfsync")) == "always"):
            raise StoreUnavailable(
                "durability is strict, but Redis has "
                f"appendonly {'yes' if persistence.get('aof_enabled') else 'no'} and "
                f"appendfsync {text(fsync.get('appendfsync'))}; expected yes and always"
            )

    async def lost_everything(self) -> bool:
        """Whether Redis has forgotten all streams since the last time: emptied, or another server.

        Told by a random word that is written when there is none, and must stay.
        """
        async with self.translated("check for lost states"):
            await self._redis.set(self.commands.epoch_key, os.urandom(8).hex(), nx=True)
            epoch = await self._redis.get(self.commands.epoch_key)
        before, self._epoch = self._epoch, cast("bytes | None", epoch)
        return before not in (None, self._epoch)
