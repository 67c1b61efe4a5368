"""UnusedStreams: since when each stream has not moved, as it is found by looking, and an end to those that are unused.

    gatewatch:{bucket}:tenant:unused    hash: a stream's name to 8 bytes over the fence of its record, and since when it
                                        is so, in Unix seconds (uint32)
    gatewatch:{tenant}:expiry           which process looks, for LEASE_MS

Nothing is written with a reading: whoever looks sees by the fence whether one came since the last look.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from gatewatch.service.core.records import FENCE
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.storage.channel_counts import CHANNELS_OF
from gatewatch.service.storage.connection import raise_first
from gatewatch.service.storage.keys import PARTS, Sets, encode, identity, tag_of
from gatewatch.service.storage.store import StateStore

LEASE_MS: Final = 60_000

_LEASE: Final = b"""
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1"""

_EXPIRE: Final = (
    CHANNELS_OF
    + b"""
-- KEYS: record, snapshots, list of streams, open anomalies, loops at a bound, unused, due, channels, outbox; then all
-- parts of the stream. ARGV: the fence that the record must still have, where it lies, the stream's name; tenant and
-- name; then score and event of incidents that end with it. Answers whether it is gone.
local held = redis.call('GET', KEYS[1]) or ''
if held:sub(ARGV[2] + 1, ARGV[3] + 1) ~= ARGV[1] then return 0 end
if redis.call('TYPE', KEYS[2]).ok ~= 'none' then return 0 end
forget_channels(held, KEYS[8])
for i = 10, #KEYS do redis.call('DEL', KEYS[i]) end
for i = 6, #ARGV, 2 do redis.call('ZADD', KEYS[9], ARGV[i], ARGV[i + 1]) end
for i = 3, 5 do redis.call('ZREM', KEYS[i], ARGV[4]) end
redis.call('HDEL', KEYS[6], ARGV[4])
redis.call('ZADD', KEYS[7], 'XX', 0, ARGV[5]) -- whoever looks whether it fell silent finds that it is gone
return 1"""
)


class UnusedStreams:
    """What was seen of streams, in Redis."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    @property
    def buckets(self) -> int:
        """How many there are, as far as is known."""
        return self._store.keys.buckets

    async def lease(self, process: str) -> bool:
        """Whether this process looks, and no other one until the lease is over. Raises StoreUnavailable."""
        key = f"gatewatch:{{{encode(self._store.tenant)}}}:expiry".encode()
        async with self._store.within("ask who looks for unused streams"):
            return bool(await self._store.ask_one(b"EVAL", _LEASE, b"1", key, process.encode(), b"%d" % LEASE_MS))

    async def page(self, tenant: str, bucket: int, after: bytes, most: int) -> list[bytes]:
        """The next names of a tenant's streams in a bucket. Raises StoreUnavailable."""
        begin = b"(" + after if after else b"-"
        async with self._store.within("list streams"):
            key = self._store.keys.sets_of(tenant)[bucket].streams
            names: list[bytes] = await self._store.ask_one(
                b"ZRANGEBYLEX", key, begin, b"+", b"LIMIT", b"0", b"%d" % most
            )
        return names

    async def look(self, tenant: str, bucket: int, names: Sequence[bytes], now_s: int, unused_s: float) -> list[str]:
        """Look at streams; those that have not moved for so long are forgotten. Returns their names.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        sets = self._store.keys.sets_of(tenant)[bucket]
        streams = [StreamKey(tenant, name.decode()) for name in names]
        keys = self._store.keys.of(streams)
        first, last = b"%d" % FENCE.start, b"%d" % (FENCE.stop - 1)
        async with self._store.within(f"look at {len(names)} streams"):
            seen, *fences = await self._store.ask_each(
                [
                    [b"HMGET", self._store.keys.unused(sets), *names],
                    *([b"GETRANGE", key.record, first, last] for key in keys),
                ]
            )
            raise_first([seen])
            moved: list[bytes] = []
            due: list[tuple[StreamKey, bytes]] = []
            for stream, name, fence, before in zip(streams, names, fences, seen, strict=True):
                if isinstance(fence, Exception):  # a foreign value
                    continue
                mark = hashlib.blake2b(fence, digest_size=8).digest()
                if before is None or before[:8] != mark:
                    moved += (name, mark + now_s.to_bytes(4, "little"))
                elif now_s - int.from_bytes(before[8:], "little") >= unused_s:
                    due.append((stream, fence))
            if moved:
                await self._store.ask_one(b"HSET", self._store.keys.unused(sets), *moved)
        return await self._expire(sets, due)

    async def _expire(self, sets: Sets, due: Sequence[tuple[StreamKey, bytes]]) -> list[str]:
        """Forget streams whose records still have these fences, and that have no snapshots."""
        if not due:
            return []
        keys, names = self._store.keys, [stream.name for stream, _ in due]
        ends = [await self._store.ends_of(stream) for stream, _ in due]
        async with self._store.within(f"forget {len(due)} unused streams"):
            done = await self._store.ask_each(
                [
                    b"EVAL", _EXPIRE, b"%d" % (9 + len(PARTS)),
                    keys[stream].record, keys.part(stream, "snapshots"), sets.streams, sets.open,
                    keys.bounds(sets), keys.unused(sets), keys.due(tag_of(keys[stream].record)), keys.channels(sets),
                    keys.outbox(tag_of(keys[stream].record)),
                    *(keys.part(stream, what) for what in PARTS),
                    fence, b"%d" % FENCE.start, b"%d" % (FENCE.stop - 1), stream.name.encode(),
                    identity(stream), *(part for event in events for part in event.queued),
                ]
                for (stream, fence), events in zip(due, ends, strict=True)
            )  # fmt: skip
            raise_first(done)
        for (stream, _), gone in zip(due, done, strict=True):
            if gone:
                self._store.record_cache.forget((keys[stream].record,))
                self._store.listed.forget(keys[stream])
        await self._store.replicated([sets.streams])
        return [name for name, gone in zip(names, done, strict=True) if gone]
