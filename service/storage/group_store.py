"""GroupStore: which incidents belong together, in Redis.

    gatewatch:{tenant}:groups:TAG   sorted set: the groups of a tag's value, by their time
    gatewatch:{tenant}:group:ID     sorted set: the incidents of a group, by their onset
    gatewatch:{tenant}:stand-in:ID  who speaks for a group whose first stream was muted before anybody was told of it

An incident joins before it is saved. Where it is not saved after all, nobody finds it, and whoever reads a group passes
over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from gatewatch.service.storage.connection import raise_first
from gatewatch.service.storage.database import Database
from gatewatch.service.storage.keys import encode

MOST_GROUPS: Final = 1000
"""Kept of a tag's value; of more, the oldest is forgotten, though not by its incidents."""

MOST_MEMBERS: Final = 10_000
"""Listed of a group; more belong to it."""

_JOIN: Final = b"""
local most, kept, listed = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local function forget(groups)
  for _, group in ipairs(groups) do
    redis.call('ZREM', KEYS[1], group)
    redis.call('DEL', KEYS[2] .. group)
  end
end
local joined = {}
for at = 4, #ARGV, 4 do
  local id, onset = ARGV[at], ARGV[at + 3]
  local group = redis.call('ZRANGE', KEYS[1], ARGV[at + 1], ARGV[at + 2], 'BYSCORE', 'LIMIT', 0, 1)[1]
  if not group then
    group = id
    redis.call('ZADD', KEYS[1], onset, group)
    forget(redis.call('ZRANGE', KEYS[1], '-inf', string.format('(%d', onset - kept), 'BYSCORE', 'LIMIT', 0, 100))
    if redis.call('ZCARD', KEYS[1]) > most then forget(redis.call('ZRANGE', KEYS[1], 0, 0)) end
  end
  local members = KEYS[2] .. group
  if redis.call('ZCARD', members) < listed then redis.call('ZADD', members, onset, id) end
  joined[#joined + 1] = group
end
return joined"""


class Joining(NamedTuple):
    """An incident that looks for its group: one whose time lies between two times, or else a new one.

    Attributes:
        id: of the incident.
        from_ms, to_ms: the times.
        onset_ms: of the incident, and the time of the group if it is a new one.
    """

    id: str
    from_ms: int
    to_ms: int
    onset_ms: int


class GroupStore:
    """The groups of incidents, whosever they are."""

    def __init__(self, database: Database, kept_ms: int) -> None:
        """`kept_ms`: how much older than one that begins a group is that is forgotten."""
        self._database = database
        self._kept_ms = kept_ms

    async def join(self, tenant: str, tag: str, incidents: Sequence[Joining]) -> list[str]:
        """The ids of the groups that incidents of one tag join, in one step. Raises StoreUnavailable."""
        begin = f"gatewatch:{{{encode(tenant)}}}:"
        arguments = [
            part
            for one in incidents
            for part in (one.id.encode(), b"%d" % one.from_ms, b"%d" % one.to_ms, b"%d" % one.onset_ms)
        ]
        limits = (b"%d" % MOST_GROUPS, b"%d" % self._kept_ms, b"%d" % MOST_MEMBERS)
        keys = (f"{begin}groups:{encode(tag)}".encode(), f"{begin}group:".encode())
        async with self._database.within(f"find the groups of {len(incidents)} incidents"):
            groups: list[bytes] = await self._database.ask_one(b"EVAL", _JOIN, b"2", *keys, *limits, *arguments)
        return [group.decode() for group in groups]

    async def members(self, tenant: str, group: str, first: int, most: int) -> list[str]:
        """Ids of the incidents of a group by their onset, from a place on. Raises StoreUnavailable."""
        async with self._database.within("list a group"):
            found: list[bytes] = await self._database.ask_one(
                b"ZRANGE", self._members(tenant, group), b"%d" % first, b"%d" % (first + most - 1)
            )
        return [id_.decode() for id_ in found]

    async def first_members(self, tenant: str, group: str, most: int) -> tuple[list[str], int]:
        """Ids of the first incidents of a group by their onset, up to `most`, and how many are listed.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        key = self._members(tenant, group)
        async with self._database.within("look at a group"):
            found = await self._database.ask_each([[b"ZRANGE", key, b"0", b"%d" % (most - 1)], [b"ZCARD", key]])
            raise_first(found)
        ids, listed = found
        return [id_.decode() for id_ in ids], listed

    async def first_of(self, groups: Sequence[tuple[str, str]]) -> list[str]:
        """The incident with which each of some groups, by tenant and id, began; "" where it is not kept.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        async with self._database.within(f"look at {len(groups)} groups"):
            found = await self._database.ask_each(
                [b"ZRANGE", self._members(tenant, group), b"0", b"0"] for tenant, group in groups
            )
            raise_first(found)
        return [ids[0].decode() if ids else "" for ids in found]

    async def stand_in(self, tenant: str, group: str) -> str:
        """Who speaks for a group in place of the incident it began with; "" for nobody. Raises StoreUnavailable."""
        async with self._database.within("look at a group"):
            found: bytes | None = await self._database.ask_one(b"GET", self._stand_in(tenant, group))
        return (found or b"").decode()

    async def let_stand_in(self, tenant: str, group: str, incident: str) -> None:
        """Have an incident speak for a group from now on. Raises StoreUnavailable."""
        kept = (b"PX", b"%d" % self._kept_ms)
        async with self._database.within("keep who speaks for a group"):
            await self._database.ask_one(b"SET", self._stand_in(tenant, group), incident.encode(), *kept)

    def _stand_in(self, tenant: str, group: str) -> bytes:
        return f"gatewatch:{{{encode(tenant)}}}:stand-in:{group}".encode()

    def _members(self, tenant: str, group: str) -> bytes:
        return f"gatewatch:{{{encode(tenant)}}}:group:{group}".encode()
