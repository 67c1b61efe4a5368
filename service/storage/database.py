"""Database: the connections to Redis, and what becomes of trouble with it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Final, TypeVar

from redis.asyncio import Connection, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from gatewatch.service.core.store import Writes
from gatewatch.service.errors import ForeignValue, StoreUnavailable
from gatewatch.service.storage.catalogue import Listed
from gatewatch.service.storage.connection import Link, LinkLost, raise_first
from gatewatch.service.storage.errors import Within, is_elsewhere, trouble_of
from gatewatch.service.storage.gate import Gate
from gatewatch.service.storage.resp import SAVE, Commands, packed

T = TypeVar("T")

PING_S: Final = 0.1
"""For an answer to a PING: with the time-out before it, those who wait behind a failed batch hear within 500 ms."""

READERS, CHANGERS = 8, 2
"""Requests that may ask Redis at a time, to read or to change a stream's settings; more wait. Beside these there are
two batches and what looks whether all is well. Each takes a connection, and most take another meanwhile."""

IDLE_LINKS: Final = 20
"""Connections that are kept; all of those together take no more."""

_REPLACE_HISTORY = b"""
for i = 1, #KEYS do
  if redis.call('TYPE', KEYS[i]).ok ~= 'string' then redis.call('DEL', KEYS[i]) end
  redis.call('SETRANGE', KEYS[i], ARGV[2 * i - 1], ARGV[2 * i])
end"""


class Database:
    """Redis, as one tenant's streams are kept in it.

    Every command has a time-out and none is sent again by the library: redis-py's default of ten retries applied
    213 of 3,000 increments twice (measured). Here those are sent again, once, that may come twice, when the
    connection was lost before the answer. Whatever goes wrong comes out as StoreUnavailable.

    Attributes:
        commands: writes what is sent.
        listed: the streams that need not be put into the list of all streams.
        reading, changing: gates for requests, so that they never take the connections that batches need.
        save_sha: the hash of save.lua, once the server has it.
    """

    def __init__(self, url: str, tenant: str, timeout_ms: int) -> None:
        """Raises ValueError when `url` is not a Redis URL; connects with the first command."""
        self.commands = Commands(tenant)
        self.listed = Listed()
        self.reading, self.changing = Gate(READERS), Gate(CHANGERS)
        self.save_sha = b""
        self._timeout_s = timeout_ms / 1000
        # protocol 2 is understood by every server and proxy, and nothing here needs 3; an URL may ask for it.
        # redis-py's time-out of a command costs a task for each; a link has one of ours for all that it sends at once
        connecting: dict[str, Any] = {"protocol": 2, "socket_timeout": None, "socket_connect_timeout": self._timeout_s}
        connecting |= {"retry": Retry(NoBackoff(), 0), "health_check_interval": 0}
        self._new_connection: Callable[[], Connection] = Redis.from_url(
            url, **connecting
        ).connection_pool.make_connection
        self._idle_links: list[Link] = []

    @contextlib.asynccontextmanager
    async def link(self) -> AsyncIterator[Link]:
        """A connection of one's own for some commands; after an error it is dropped, whatever it still watches."""
        link = self._idle_links.pop() if self._idle_links else self._new_link()
        try:
            yield link
        except BaseException:
            await link.close()
            raise
        if len(self._idle_links) < IDLE_LINKS:
            self._idle_links.append(link)
        else:
            await link.close()

    def _new_link(self) -> Link:
        return Link(self._new_connection(), self._timeout_s / 2, self.drop_idle)

    async def ask(self, *commands: Sequence[bytes], twice: bool = True) -> list[Any]:
        """Send commands at once, on a connection of their own, and wait for their answers, errors among them.

        Args:
            twice: they may be done twice, and are sent again if the connection is lost before the answers come.
        """
        return await self._exchange(b"".join(map(packed, commands)), len(commands), twice)

    async def _exchange(self, commands: bytes, count: int, twice: bool = True) -> list[Any]:
        async def exchange() -> list[Any]:
            async with self.link() as link:
                await link.open()
                link.send(commands)
                return await link.answers(count)

        return await (again_if_lost(exchange) if twice else exchange())

    async def ask_one(self, *command: bytes, twice: bool = True) -> Any:
        """The answer to one command. Raises the error that Redis answers."""
        answers = await self.ask(command, twice=twice)
        raise_first(answers)
        return answers[0]

    async def save(self, writes: Writes, expected: Sequence[bytes] | None = None) -> list[bool]:
        """Save each stream whose record still carries its fence; say which did. One round trip.

        It may be sent twice: of what was saved already, the record no longer has its fence.

        Args:
            expected: whole records to be compared instead of the fences.
        """
        async with self.within(f"save {len(writes.streams)} states"):
            writes.unlisted = self.listed.missing(writes.streams, writes.fences)
            try:
                answers = await self._run_save(writes, expected or writes.fences)
            except NoScriptError:  # a server that does not know it has done nothing, so sending it again is safe
                await self.load_script()
                answers = await self._run_save(writes, expected or writes.fences)
            return await self.note_saved(writes, answers)

    async def load_script(self) -> None:
        """Have the server know save.lua."""
        self.save_sha = await self.ask_one(b"SCRIPT", b"LOAD", SAVE.encode())

    async def _run_save(self, writes: Writes, expected: Sequence[bytes]) -> list[int]:
        if not self.save_sha:
            await self.load_script()
        answers = await self._exchange(*self.commands.comparison(self.save_sha, writes, expected))
        raise_first(answers)
        saved: list[int] = answers[0]
        return saved

    async def note_saved(self, writes: Writes, answers: Sequence[int]) -> list[bool]:
        """Which streams save.lua, or a transaction in its place, has saved; those missing in their list are listed."""
        *numbers, count = answers
        saved = [number == 1 for number in numbers]
        streams = [stream for stream, ok in zip(writes.streams, saved, strict=True) if ok]
        if self.listed.note(streams, None if count < 0 else count) and streams and count >= 0:
            key = self.commands.streams_key.encode()
            with contextlib.suppress(RedisError, OSError):  # else they are listed with their next readings
                await self.ask_one(b"ZADD", key, *(part for s in streams for part in (b"0", s.name.encode())))
        return saved

    async def replace_histories(self, writes: Writes, slots: Sequence[tuple[int, int, bytes]]) -> None:
        """Write pieces of histories under whose keys another program keeps something; that gives way."""
        keys = [self.commands.of(writes.streams[row]).history for row, _, _ in slots]
        placed = [part for _, offset, piece in slots for part in (b"%d" % offset, piece)]
        await self.ask_one(b"EVAL", _REPLACE_HISTORY, b"%d" % len(keys), *keys, *placed)

    async def ping(self) -> bool:
        """Whether Redis answers a PING within PING_S, with a refusal perhaps."""
        try:
            async with self.translated("ping", PING_S):
                await self.ask([b"PING"])
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
        kinds = {commands.streams_key: "zset", commands.open_key: "zset", commands.alerts_key: "zset"}
        kinds |= {commands.epoch_key: "string", commands.takeover_key: "hash", commands.rules_key: "hash"}
        with contextlib.suppress(Exception):
            for key, expected in kinds.items():
                found = text(await self.ask_one(b"TYPE", key.encode()))
                if found not in (expected, "none"):
                    return (
                        f"the key {key} in Redis holds a {found} of somebody else's; expected a {expected} of this "
                        f"service. Move it away (redis-cli RENAME '{key}' '{key}.foreign'), then send the same request "
                        "again: nothing is lost"
                    )
        return ""

    async def drop_idle(self) -> None:
        """Close the connections that nobody uses: the next ones go to whichever server has the address now."""
        while self._idle_links:
            await self._idle_links.pop().close()

    async def close(self) -> None:
        """Close all connections."""
        await self.drop_idle()


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
        if is_elsewhere(error):
            await self._database.drop_idle()
        foreign = await self._database.foreign() if "WRONGTYPE" in str(error) else ""
        if foreign:
            raise ForeignValue(f"could not {self._what}: {foreign}") from error
        message = f"could not {self._what}: {trouble_of(error)}; nothing is lost, send the same request again"
        raise StoreUnavailable(message) from error


async def again_if_lost(work: Callable[[], Awaitable[T]]) -> T:
    """Do it, and once again if the connection is lost; for what may be done twice."""
    try:
        return await work()
    except LinkLost:
        return await work()


def text(value: object) -> str:
    """What Redis says, which may be bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
