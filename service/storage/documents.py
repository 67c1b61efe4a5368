"""DocumentStore: a document of a tenant in Redis, with its number; see serving/shared_document.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gatewatch.service.storage.connection import raise_first
from gatewatch.service.storage.database import Database
from gatewatch.service.storage.keys import Keys

_WRITE: Final = b"""
local number = tonumber(redis.call('HGET', KEYS[1], 'number') or '0')
if number ~= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'number', ARGV[2], 'document', ARGV[3])
return 1"""


class DocumentStore:
    """Keeps one document; each change has to name the number that it goes on from."""

    def __init__(self, database: Database, what: str, key: Callable[[Keys], bytes]) -> None:
        """`what` it is called in errors; `key`: where it is kept, by the keys of the database."""
        self._database = database
        self._what = what
        self._key = key

    async def number(self) -> int:
        """The number of the document, 0 where there is none. Raises StoreUnavailable."""
        async with self._database.within(f"look for {self._what}"):
            return int(await self._database.ask_one(b"HGET", self._at, b"number") or 0)

    async def read(self) -> bytes:
        """The document, empty where there is none. Raises StoreUnavailable."""
        async with self._database.within(f"read {self._what}"):
            return bytes(await self._database.ask_one(b"HGET", self._at, b"document") or b"")

    async def write(self, before: int, number: int, document: bytes) -> bool:
        """Write a document of this number, if the one that stands has the number `before`. Raises StoreUnavailable.

        Sent again where the connection was lost: then it says False though it was written, and the writer finds it.
        """
        async with self._database.within(f"write {self._what}"):
            key, numbers = self._at, (b"%d" % before, b"%d" % number)
            written = bool(await self._database.ask_one(b"EVAL", _WRITE, b"1", key, *numbers, document))
        await self._database.replicated([key])
        return written

    @property
    def _at(self) -> bytes:
        return self._key(self._database.keys)


def rules_of(database: Database) -> DocumentStore:
    """Which stream has which model."""
    return DocumentStore(database, "rules", lambda keys: keys.rules)


def policies_of(database: Database, tenant: str) -> DocumentStore:
    """What is asked of a tenant's streams."""
    return DocumentStore(database, "policies", lambda keys: keys.policies(tenant))


async def policy_numbers(database: Database, tenants: list[str]) -> list[int]:
    """The number of each tenant's policies, 0 where there are none. Raises StoreUnavailable."""
    async with database.within("look for policies"):
        asked = [(b"HGET", database.keys.policies(tenant), b"number") for tenant in tenants]
        numbers = await database.ask_each(asked)
        raise_first(numbers)
        return [int(number or 0) for number in numbers]
