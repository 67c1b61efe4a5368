"""SnapshotStore: named states of streams in Redis.

STREAM:snapshots    hash: a name to the state, as it is exported; the name with `:about` to what is listed of it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import AlreadyThere
from gatewatch.service.storage.database import Database

_ABOUT: Final = b":about"

_ADD: Final = b"""
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held == ARGV[2] then return 1 end -- sent again, since the answer was lost
if held then return -1 end
if redis.call('HLEN', KEYS[1]) / 2 >= tonumber(ARGV[4]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2], ARGV[1] .. ':about', ARGV[3])
return 1"""

_ABOUT_EACH: Final = b"""
local found = {}
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if field:sub(-6) == ':about' then found[#found + 1] = redis.call('HGET', KEYS[1], field) end
end
return found"""


class SnapshotStore:
    """Keeps at most so many snapshots of each stream."""

    def __init__(self, database: Database, most: int) -> None:
        self._database = database
        self.most = most

    async def add(self, stream: StreamKey, name: str, content: bytes, about: bytes) -> None:
        """Keep a snapshot, and what is listed of it. Raises AlreadyThere: one of this name, or as many as may be."""
        async with self._database.within("keep a snapshot"):
            done = await self._database.ask_one(
                b"EVAL", _ADD, b"1", self._key(stream), name.encode(), content, about, b"%d" % self.most
            )
        await self._database.replicated([self._key(stream)])
        if done < 0:
            raise AlreadyThere(
                f"stream {stream.name} has a snapshot {name}, which stays as it is; expected another name"
            )
        if not done:
            raise AlreadyThere(
                f"stream {stream.name} has {self.most} snapshots, as many as are kept (GATEWATCH_SNAPSHOTS); delete one"
            )

    async def read(self, stream: StreamKey, name: str) -> bytes | None:
        """A snapshot; None where there is none of this name."""
        async with self._database.within("read a snapshot"):
            found: bytes | None = await self._database.ask_one(b"HGET", self._key(stream), name.encode())
        return found

    async def delete(self, stream: StreamKey, name: str) -> bool:
        """Forget a snapshot; whether there was one."""
        field = name.encode()
        async with self._database.within("delete a snapshot"):
            known = bool(await self._database.ask_one(b"HDEL", self._key(stream), field, field + _ABOUT))
        await self._database.replicated([self._key(stream)])
        return known

    async def about_each(self, stream: StreamKey) -> Sequence[bytes]:
        """What is listed of a stream's snapshots."""
        async with self._database.within("list snapshots"):
            found: list[bytes] = await self._database.ask_one(b"EVAL", _ABOUT_EACH, b"1", self._key(stream))
        return found

    def _key(self, stream: StreamKey) -> bytes:
        return self._database.keys.part(stream, "snapshots")
