"""ShadowFigures: what the shadow of a model came to, summed over all processes, in Redis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gatewatch.service.storage.database import Database

_ADD: Final = b"""
local number = tonumber(redis.call('HGET', KEYS[1], 'number') or '0')
if number > tonumber(ARGV[1]) then return 0 end
if number < tonumber(ARGV[1]) then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'number', ARGV[1])
end
for at = 2, #ARGV, 2 do
  local sum = tonumber(redis.call('HGET', KEYS[1], ARGV[at]) or '0') + tonumber(ARGV[at + 1])
  redis.call('HSET', KEYS[1], ARGV[at], string.format('%.17g', sum))
end
return 1"""


class ShadowFigures:
    """One hash a model, of the shadow that began last: sums by name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, model: str, number: int, sums: Mapping[str, float]) -> None:
        """Add to the sums of the shadow with this number; nothing where a later one has begun.

        Sent once: of an answer that is lost the sums may be lost as well, and never count twice.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        parts = [part for name, value in sums.items() for part in (name.encode(), repr(value).encode())]
        async with self._database.within("add up figures of a shadow"):
            await self._database.ask_one(
                b"EVAL", _ADD, b"1", self._database.keys.shadow(model), b"%d" % number, *parts, twice=False
            )

    async def read(self, model: str, number: int) -> dict[str, float]:
        """The sums of the shadow with this number; none where nothing was added. Raises StoreUnavailable."""
        async with self._database.within("read figures of a shadow"):
            found = await self._database.ask_one(b"HGETALL", self._database.keys.shadow(model))
        flat = [*found.items()] if isinstance(found, dict) else list(zip(found[::2], found[1::2], strict=True))
        sums = {bytes(name).decode(): float(value) for name, value in flat}
        return sums if sums.pop("number", 0) == number else {}
