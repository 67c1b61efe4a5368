"""SilenceStore: which streams are to be looked at, whether they have fallen silent, and what was seen of them.

    gatewatch:{bucket}:tenant:due      sorted set: tenant and name of each stream, by the time of its next look
    gatewatch:{bucket}:tenant:watched  hash: tenant and name to what was seen at the last look, see silence.py; and
                                       `beat`, when anybody last looked in this bucket, `since`, from when on somebody
                                       always did

The tenant in these keys is that of the service; the streams may be anybody's.

Whoever takes streams that are due puts them off for LEASE_MS in the same step, so that others take others; those of a
process that dies are due again after that. Times are by the clock of Redis: processes need not agree on theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gatewatch.service.core.records import STREAM_PART
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.event import Event
from gatewatch.service.storage.connection import raise_first
from gatewatch.service.storage.database import Database
from gatewatch.service.storage.keys import identity, stream_of, tag_of
from gatewatch.service.storage.outbox import END_IF_LISTED

LEASE_MS: Final = 30_000

AWAY_MS: Final = 30_000
"""Where nobody looked for so long, the service or Redis was away, and no stream is blamed for that time."""

_TAKE: Final = b"""
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = 1000 * time[1] + math.floor(time[2] / 1000)
end
local beat, since = unpack(redis.call('HMGET', KEYS[2], 'beat', 'since'))
if not since or math.abs(now - tonumber(beat)) > tonumber(ARGV[4]) then
  since = string.format('%d', now)
  redis.call('HSET', KEYS[2], 'since', since)
end
redis.call('HSET', KEYS[2], 'beat', string.format('%d', now))
local due = redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2])
if #due == 0 then return {now, tonumber(since), due, due, 0} end
-- at 0 are those that are gone
local first = redis.call('ZRANGE', KEYS[1], 1, now, 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')[2]
local later = {}
for at, stream in ipairs(due) do
  later[2 * at - 1] = string.format('%d', now + tonumber(ARGV[3]))
  later[2 * at] = stream
end
redis.call('ZADD', KEYS[1], unpack(later))
return {now, tonumber(since), due, redis.call('HMGET', KEYS[2], unpack(due)), now - (first or now)}"""

_FORGET: Final = b"""
redis.call('ZREM', KEYS[1], unpack(ARGV))
redis.call('HDEL', KEYS[2], unpack(ARGV))"""


@dataclass(frozen=True)
class Taken:
    """Streams of a bucket that are to be looked at.

    Attributes:
        now_ms: the time.
        since_ms: from when on somebody always looked.
        streams: (N,) their keys.
        watches: (N,) what was seen of each, b"" where nothing was yet.
        heads: (N,) the first STREAM_PART.itemsize bytes of each record, fewer where there is none.
        behind_ms: since when the first of them was due.
    """

    now_ms: int
    since_ms: int
    streams: list[StreamKey]
    watches: list[bytes]
    heads: list[bytes]
    behind_ms: int


class SilenceStore:
    """What is due, in Redis."""

    def __init__(self, database: Database, now_ms: Callable[[], int] | None = None) -> None:
        """`now_ms`: the time, where it is not the clock of Redis."""
        self._database = database
        self._now_ms = now_ms

    @property
    def buckets(self) -> int:
        """How many there are, as far as is known."""
        return self._database.keys.buckets

    async def take(self, buckets: Sequence[int], most: int) -> list[Taken]:
        """Take up to `most` streams of each of some buckets that are due. Two round trips.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        now = b"" if self._now_ms is None else b"%d" % self._now_ms()
        more = (now, b"%d" % most, b"%d" % LEASE_MS, b"%d" % AWAY_MS)
        async with self._database.within("look for streams that are due"):
            replies = await self._database.ask_each([b"EVAL", _TAKE, b"2", *self._keys(one), *more] for one in buckets)
            raise_first(replies)
            taken = [(now, since, list(map(stream_of, due)), seen, behind) for now, since, due, seen, behind in replies]
            last = b"%d" % (STREAM_PART.itemsize - 1)
            streams = [stream for _, _, some, _, _ in taken for stream in some]
            keys = self._database.keys.of(streams)
            found = await self._database.ask_each([b"GETRANGE", key.record, b"0", last] for key in keys) if keys else []
        heads = iter([head if isinstance(head, bytes) else b"" for head in found])
        return [
            Taken(now, since, some, [one or b"" for one in seen], [next(heads) for _ in some], behind)
            for now, since, some, seen, behind in taken
        ]

    async def note(self, looks: Sequence[tuple[StreamKey, bytes, int]]) -> None:
        """Keep what was seen of streams, and when each is to be looked at again. One round trip.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        seen: dict[int, tuple[list[bytes], list[bytes]]] = {}
        for stream, watch, next_ms in looks:
            name = identity(stream)
            due, watched = seen.setdefault(self._bucket(stream), ([], []))
            due += (b"%d" % next_ms, name)
            watched += (name, watch)
        async with self._database.within(f"keep what was seen of {len(looks)} streams"):
            raise_first(
                await self._database.ask_each(
                    command
                    for bucket, (due, watched) in seen.items()
                    for command in (
                        [b"ZADD", self._keys(bucket)[0], b"XX", *due],
                        [b"HSET", self._keys(bucket)[1], *watched],
                    )
                )
            )

    async def forget(self, streams: Sequence[StreamKey]) -> None:
        """Look at streams no more. Raises StoreUnavailable."""
        names: dict[int, list[bytes]] = {}
        for stream in streams:
            names.setdefault(self._bucket(stream), []).append(identity(stream))
        async with self._database.within(f"forget {len(streams)} streams"):
            raise_first(
                await self._database.ask_each(
                    [b"EVAL", _FORGET, b"2", *self._keys(bucket), *some] for bucket, some in names.items()
                )
            )

    async def watch_listed(self, tenant: str, bucket: int, after: bytes, most: int, due_ms: int) -> bytes:
        """Have the next `most` streams of a tenant's list of a bucket watched, those that are not.

        Returns:
            The last one of them; b"" at the end of the list.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        sets = self._database.keys.sets_of(tenant)[bucket]
        begin = b"(" + after if after else b"-"
        async with self._database.within("list streams"):
            names: list[bytes] = await self._database.ask_one(
                b"ZRANGEBYLEX", sets.streams, begin, b"+", b"LIMIT", b"0", b"%d" % most
            )
            if names:
                due = [part for name in names for part in (b"%d" % due_ms, identity(StreamKey(tenant, name.decode())))]
                await self._database.ask_one(b"ZADD", self._keys(bucket)[0], b"NX", *due)
        return names[-1] if len(names) == most else b""

    async def drop_open(self, incidents: Sequence[tuple[StreamKey, bytes]]) -> None:
        """Take incidents, by stream and id, off what is open: their streams are gone. Raises StoreUnavailable."""
        async with self._database.within("take off silences"):
            raise_first(
                await self._database.ask_each(
                    [b"ZREM", self._database.keys[stream].sets.silent, id_] for stream, id_ in incidents
                )
            )

    async def end(self, stream: StreamKey, n: int, incident: bytes, incident_id: bytes, now_ms: int) -> None:
        """Keep the end of a silence that no reading has ended, and have it told. Raises StoreUnavailable."""
        keys = self._database.keys
        sets = keys[stream].sets
        taken_off: list[bytes] = [b"ZREM", sets.silent, incident_id]
        if self._database.tells:
            event = Event("ended", now_ms, stream.tenant, n, stream.name)
            outbox = keys.outbox(tag_of(keys[stream].record))
            taken_off = [b"EVAL", END_IF_LISTED, b"2", sets.silent, outbox, incident_id, *event.queued]
        async with self._database.within("keep the end of a silence"):
            raise_first(
                await self._database.ask(
                    [b"HSET", keys.part(stream, "incidents"), b"%d" % n, incident],
                    [b"ZADD", sets.changes, b"%d" % now_ms, incident_id],
                    taken_off,
                )
            )

    async def count_open(self, tenant: str) -> int:
        """How many silences of a tenant are open. Raises StoreUnavailable."""
        async with self._database.within("count silences"):
            counts = await self._database.ask_each(
                [b"ZCARD", sets.silent] for sets in self._database.keys.sets_of(tenant)
            )
            raise_first(counts)
        return sum(counts)

    async def open_ids(self, tenant: str, most: int) -> list[bytes]:
        """Ids of open silences of a tenant, up to `most` of each bucket, those found last. Raises StoreUnavailable."""
        async with self._database.within("list silences"):
            found = await self._database.ask_each(
                [b"ZRANGE", sets.silent, b"0", b"%d" % (most - 1), b"REV"]
                for sets in self._database.keys.sets_of(tenant)
            )
            raise_first(found)
        return [id_ for some in found for id_ in some]

    def _bucket(self, stream: StreamKey) -> int:
        return int(tag_of(self._database.keys[stream].record))

    def _keys(self, bucket: int) -> tuple[bytes, bytes]:
        tag = b"%d" % bucket
        return self._database.keys.due(tag), self._database.keys.watched(tag)
