"""Outbox: events that are to be told elsewhere, in Redis, and those that could not be.

    gatewatch:{bucket}:TENANT:outbox    sorted set: events to be told, by the time from which on that may be tried; one
                                        of each bucket, of the service's own tenant, whosever the events are
    gatewatch:{tenant}:dead-letters     sorted set: events of a tenant that were given up, by when that was

An event is written with the reading that caused it, see encoder.py, behind those that were before it and yet to be
tried. Who claims it puts its time ahead; who has told it takes it off. Times are those of Redis, so that processes need
not agree on theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from gatewatch.service.incidents.event import decode
from gatewatch.service.storage.connection import raise_first
from gatewatch.service.storage.database import Database, pairs
from gatewatch.service.storage.keys import encode

MOST_IN_BUCKET: Final = 1000
"""Events that wait in a bucket; of more, those that have waited longest are given up."""

_CLAIM: Final = b"""
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if not first[1] or tonumber(first[2]) > now then return {} end
redis.call('ZADD', KEYS[1], string.format('%.3f', now + ARGV[1]), first[1])
return {first[1]}"""

_AGAIN: Final = b"""
local time = redis.call('TIME')
return redis.call('ZADD', KEYS[1], 'XX', string.format('%.3f', time[1] + time[2] / 1000000 + ARGV[1]), ARGV[2])"""

_TAKE: Final = b"""
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score then return 0 end
local time = redis.call('TIME')
local ahead = tonumber(score) - (time[1] + time[2] / 1000000)
if ahead > 0 and ahead <= ARGV[2] + 0.001 then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])"""
"""Takes an event off unless it is claimed; one that is tried again as soon may be taken for that."""


END_IF_LISTED: Final = b"""
-- KEYS: a sorted set that lists what has not ended, and the outbox. ARGV: the member; score and event of its end.
if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then redis.call('ZADD', KEYS[2], ARGV[2], ARGV[3]) end"""
"""Takes what ends off a list, and has it told, of those that do so at the same time once."""


class Claimed(NamedTuple):
    """An event that is this process's to tell, for some time."""

    key: bytes
    event: bytes


class Outbox:
    """What is to be told."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, most: int, lease_s: float) -> tuple[list[Claimed], dict[bytes, int]]:
        """Up to `most` events that are due, each of another bucket, and how many wait in each bucket, by key.

        An event that is claimed is nobody else's for `lease_s`. Raises StoreUnavailable.
        """
        keys = self._keys()
        async with self._database.within("look for events to be told"):
            heads = await self._database.ask_each(
                command for key in keys for command in ([b"ZRANGE", key, b"0", b"0", b"WITHSCORES"], [b"ZCARD", key])
            )
            raise_first(heads)
            first = [
                (float(found[0][1]), key) for key, head in zip(keys, heads[::2], strict=True) if (found := pairs(head))
            ]
            chosen = [key for _, key in sorted(first)[:most]]
            lease = b"%.3f" % lease_s
            due = await self._database.ask_each([b"EVAL", _CLAIM, b"1", key, lease] for key in chosen) if chosen else []
            raise_first(due)
        claimed = [Claimed(key, one[0]) for key, one in zip(chosen, due, strict=True) if one]
        return claimed, dict(zip(keys, heads[1::2], strict=True))

    async def take_surplus(self, waiting: Mapping[bytes, int], lease_s: float) -> list[bytes]:
        """Take off events beyond those that may wait, of each bucket those that have waited longest; returns them.

        One that a process has claimed stays, and of processes that do so at once each event is taken by one.

        Args:
            waiting: how many wait in each bucket, by key.
            lease_s: for which events are claimed.

        Raises:
            StoreUnavailable: some may be taken off all the same.
        """
        full = [key for key, count in waiting.items() if count > MOST_IN_BUCKET]
        if not full:
            return []
        async with self._database.within("take off events that wait for too long"):
            found = await self._database.ask_each([b"ZRANGE", key, b"0", b"-1"] for key in full)
            raise_first(found)
            oldest = [
                (key, event)
                for key, events in zip(full, found, strict=True)
                for event in sorted(events, key=_since)[: max(0, len(events) - MOST_IN_BUCKET)]
            ]
            lease = b"%.3f" % lease_s
            taken = await self._database.ask_each([b"EVAL", _TAKE, b"1", key, event, lease] for key, event in oldest)
            raise_first(taken)
        return [event for (_, event), is_taken in zip(oldest, taken, strict=True) if is_taken]

    async def told(self, claimed: Claimed) -> None:
        """Take an event off: it is told, or given up. Raises StoreUnavailable."""
        async with self._database.within("take off an event"):
            await self._database.ask_one(b"ZREM", claimed.key, claimed.event)

    async def again(self, claimed: Claimed, in_s: float) -> None:
        """Have an event told later. Raises StoreUnavailable."""
        async with self._database.within("keep an event for later"):
            await self._database.ask_one(b"EVAL", _AGAIN, b"1", claimed.key, b"%.3f" % in_s, claimed.event)

    async def give_up(self, tenant: str, letters: Sequence[bytes], at_ms: int, most: int) -> None:
        """Keep what could not be told of a tenant; of more than `most`, the last. Raises StoreUnavailable."""
        key = self._dead(tenant)
        async with self._database.within("keep a dead letter"):
            await self._database.ask_one(b"ZADD", key, *(part for one in letters for part in (b"%d" % at_ms, one)))
            await self._database.ask_one(b"ZREMRANGEBYRANK", key, b"0", b"%d" % (-most - 1))

    async def dead_letters(self, tenant: str, most: int) -> list[bytes]:
        """What could not be told of a tenant, the last first. Raises StoreUnavailable."""
        async with self._database.within("read dead letters"):
            found: Sequence[bytes] = await self._database.ask_one(
                b"ZREVRANGEBYSCORE", self._dead(tenant), b"+inf", b"-inf", b"LIMIT", b"0", b"%d" % most
            )
        return list(found)

    def _keys(self) -> list[bytes]:
        keys = self._database.keys
        return [keys.outbox(b"%d" % bucket) for bucket in range(keys.buckets)]

    def _dead(self, tenant: str) -> bytes:
        return f"gatewatch:{{{encode(tenant)}}}:dead-letters".encode()


def _since(kept: bytes) -> int:
    """When an event was saved, ms; 0 of what cannot be read."""
    event = decode(kept)
    return 0 if event is None else event.at_ms
