"""RulesStore: the document that says which model each stream has, in Redis, with its number."""

from __future__ import annotations

from typing import Final

from gatewatch.service.storage.database import Database

_WRITE: Final = b"""
local number = tonumber(redis.call('HGET', KEYS[1], 'number') or '0')
if number ~= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'number', ARGV[2], 'document', ARGV[3])
return 1"""


class RulesStore:
    """Keeps one document of a tenant; each change has to name the number that it goes on from."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def number(self) -> int:
        """The number of the document, 0 where there is none. Raises StoreUnavailable."""
        async with self._database.within("look for rules"):
            return int(await self._database.ask_one(b"HGET", self._database.keys.rules, b"number") or 0)

    async def read(self) -> bytes:
        """The document, empty where there is none. Raises StoreUnavailable."""
        async with self._database.within("read rules"):
            return bytes(await self._database.ask_one(b"HGET", self._database.keys.rules, b"document") or b"")

    async def write(self, before: int, number: int, document: bytes) -> bool:
        """Write a document of this number, if the one that stands has the number `before`. Raises StoreUnavailable.

        Sent again where the connection was lost: then it says False though it was written, and the writer finds it.
        """
        async with self._database.within("write rules"):
            key, numbers = self._database.keys.rules, (b"%d" % before, b"%d" % number)
            written = bool(await self._database.ask_one(b"EVAL", _WRITE, b"1", key, *numbers, document))
        await self._database.replicated([key])
        return written
