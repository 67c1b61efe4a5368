"""Database: the connections to Redis, and what becomes of trouble with it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Final, cast

from redis.asyncio import Connection, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from service.messages.errors import ForeignValue, StoreUnavailable
from service.storage.link import Link
from service.storage.resp import SAVE, Commands, Writes
from service.storage.trouble import Within, trouble_of

PING_S: Final = 0.1
"""For an answer to a PING: with the time-out before it, those who wait behind a failed batch hear within 500 ms."""

IDLE_LINKS: Final = 4
"""Kept for the next batch. One is enough for the batches; settings and corrections take others at the same time."""

_REPLACE_HISTORY = """
for i = 1, #KEYS do
  if redis.call('TYPE', KEYS[i]).ok ~= 'string' then redis.call('DEL', KEYS[i]) end
  redis.call('SETRANGE', KEYS[i], ARGV[2 * i - 1], ARGV[2 * i])
end"""


class Database:
    """Redis, as one tenant's streams are kept in it.

    Every command has a time-out and none is sent again by the library: redis-py's default of ten retries applied
    213 of 3,000 increments twice (measured). Whatever goes wrong comes out as StoreUnavailable.

    Attributes:
        commands: writes what is sent.
        save_sha: the hash of save.lua, once the server has it.
    """

    def __init__(self, url: str, tenant: str, timeout_ms: int) -> None:
        """Raises ValueError when `url` is not a Redis URL; connects with the first command."""
        self.commands = Commands(tenant)
        self.save_sha = ""
        self._timeout_s = timeout_ms / 1000
        no_retry: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "health_check_interval": 0}
        self._redis: Redis = Redis.from_url(
            url, socket_timeout=self._timeout_s, socket_connect_timeout=self._timeout_s, **no_retry
        )
        # a link carries whole batches under one time-out of ours; redis-py's own costs a task for each command
        self._new_connection: Callable[[], Connection] = Redis.from_url(
            url, socket_timeout=None, socket_connect_timeout=self._timeout_s, **no_retry
        ).connection_pool.make_connection
        self._idle_links: list[Link] = []

    @contextlib.asynccontextmanager
    async def link(self) -> AsyncIterator[Link]:
        """A connection of one's own for some commands; after an error it is dropped, whatever it still watches."""
        link = self._idle_links.pop() if self._idle_links else Link(self._new_connection())
        try:
            yield link
        except BaseException:
            await link.close()
            raise
        if len(self._idle_links) < IDLE_LINKS:
            self._idle_links.append(link)
        else:
            await link.close()

    async def save(self, writes: Writes, expected: Sequence[bytes] | None = None) -> list[bool]:
        """Save each stream whose record still carries its fence; say which did. One round trip.

        Args:
            expected: whole records to be compared instead of the fences.
        """
        async with self.translated(f"save {len(writes.streams)} states"):
            await self._execute(self.commands.listing(writes))  # first: one that is saved and not listed stays unlisted
            keys, arguments = self.commands.compared(writes, expected or writes.fences)
            saved = [answer == 1 for answer in await self._run_save(keys, arguments)]
            await self.note_incidents(writes, saved)
            return saved

    async def note_incidents(self, writes: Writes, saved: Sequence[bool]) -> None:
        """Keep the set of streams with an open anomaly, for those that were saved."""
        mine = {stream for stream, ok in zip(writes.streams, saved, strict=True) if ok}
        await self._execute(self.commands.incidents(writes, mine))

    async def _execute(self, commands: list[list[bytes]]) -> None:
        for command in commands:
            await cast(Any, self._redis).execute_command(*command)

    async def replace_histories(self, writes: Writes, slots: Sequence[tuple[int, int, bytes]]) -> None:
        """Write pieces of histories under whose keys another program keeps something; that gives way."""
        keys = [self.commands.of(writes.streams[row]).history for row, _, _ in slots]
        placed = [part for _, offset, piece in slots for part in (offset, piece)]
        await cast(Any, self._redis).eval(_REPLACE_HISTORY, len(keys), *keys, *placed)

    async def _run_save(self, keys: int, arguments: list[Any]) -> list[int]:
        """Run save.lua by its hash. A server that does not know it has done nothing, so sending it whole is safe."""
        try:
            if self.save_sha:
                return cast("list[int]", await self._redis.evalsha(self.save_sha, keys, *arguments))
        except NoScriptError:
            pass
        self.save_sha = await self._redis.script_load(SAVE)
        return cast("list[int]", await self._redis.evalsha(self.save_sha, keys, *arguments))

    async def answers(self) -> bool:
        """Whether Redis answers a PING within PING_S."""
        try:
            async with self.translated("ping", PING_S):
                await cast(Any, self._redis).ping()
        except StoreUnavailable:
            return False
        return True

    def within(self, what: str) -> Translated:
        """`translated`, with the time-out of a command."""
        return self.translated(what, self._timeout_s)

    def translated(self, what: str, timeout_s: float | None = None) -> Translated:
        """Whatever goes wrong with the store in a block becomes StoreUnavailable."""
        return Translated(self, what, timeout_s)

    async def foreign(self) -> str:
        """Which of the tenant's keys holds a value of another kind than ours, and what to do; empty if none does."""
        commands = self.commands
        kinds = {commands.streams_key: "zset", commands.open_key: "zset", commands.epoch_key: "string"}
        with contextlib.suppress(Exception):
            for key, expected in kinds.items():
                found = text(await self._redis.type(key))
                if found not in (expected, "none"):
                    return (
                        f"the key {key} in Redis holds a {found} of somebody else's; expected a {expected} of this "
                        f"service. Move it away (redis-cli RENAME '{key}' '{key}.foreign'), then send the same request "
                        "again: nothing is lost"
                    )
        return ""

    async def close(self) -> None:
        """Close all connections."""
        for link in self._idle_links:
            await link.close()
        await self._redis.aclose()


class Translated:
    """A block in which whatever goes wrong with the store becomes StoreUnavailable; see `Database.translated`.

    Beside RedisError and OSError, uvloop raises a bare RuntimeError out of redis-py when a transport closes under it.
    """

    __slots__ = ("_database", "_what", "_within")

    def __init__(self, database: Database, what: str, timeout_s: float | None) -> None:
        self._database = database
        self._what = what
        self._within = None if timeout_s is None else Within(timeout_s)

    async def __aenter__(self) -> None:
        if self._within is not None:
            await self._within.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._within is not None:
                await self._within.__aexit__(kind, error, trace)
        except TimeoutError as late:
            error = late
        if not isinstance(error, Exception):
            return
        foreign = await self._database.foreign() if "WRONGTYPE" in str(error) else ""
        if foreign:
            raise ForeignValue(f"could not {self._what}: {foreign}") from error
        message = f"could not {self._what}: {trouble_of(error)}; nothing is lost, send the same request again"
        raise StoreUnavailable(message) from error


def text(value: object) -> str:
    """What Redis says, which may be bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
