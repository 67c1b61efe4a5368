"""Database: Redis as it is asked, what becomes of trouble with it, and the keys in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import structlog
from redis.exceptions import NoScriptError, RedisError

from gatewatch.service.core.store import Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import StoreUnavailable
from gatewatch.service.storage import encoder
from gatewatch.service.storage.addresses import connections_of
from gatewatch.service.storage.catalogue import Listed
from gatewatch.service.storage.connection import ConnectionLost, raise_first
from gatewatch.service.storage.errors import Signs, TooFewReplicas
from gatewatch.service.storage.gate import Gate
from gatewatch.service.storage.keys import BUCKETS, Keys, StreamKeys, barrier_of, tag_of
from gatewatch.service.storage.node import Node
from gatewatch.service.storage.old_keys import AT_ONCE, OldKeys
from gatewatch.service.storage.translation import Translated

T = TypeVar("T")

log = structlog.get_logger(__name__)

PING_S: Final = 0.1
"""For an answer to a PING: with the time-out before it, those who wait behind a failed batch hear within 500 ms."""

READERS, CHANGERS = 8, 2
"""Requests that may ask Redis at a time, to read or to change a stream's settings; more wait. Beside these there are
two batches and what looks whether all is well. Each takes a connection, and most take another meanwhile."""

KNOWN_ALERTS: Final = 65_536
"""Alerts of which this process knows in which bucket they are; of more, they are looked for in all."""

MOVE_AGAIN_S: Final = 10.0
"""After the last stream was moved, those are looked for that a process of the version before has written since."""

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
        tenant: whose streams are listed and counted.
        memory: bytes that Redis used when it was last asked, and those it may use; None where it did not say.
        keys: every key; the number of buckets is what Redis says, once it was asked.
        node: the server.
        replicas, wait: how many must have what is saved, and the command that waits for them; b"" for none.
        listed: the streams that need not be put into the lists of all streams.
        watches: whether new streams are to be looked at, see silence_store.py.
        moving: whether streams may be found under the keys of the version before.
        alert_keys: of alerts to be told, which set holds them.
        reading, changing: gates for requests, so that they never take the connections that batches need.
    """

    def __init__(self, url: str, tenant: str, timeout_ms: int, buckets: int = BUCKETS, replicas: int = 0) -> None:
        """Raises ValueError when `url` is not a Redis URL; connects with the first command.

        Args:
            buckets: of a Redis that has none yet.
            replicas: how many must have what is saved before it is answered.
        """
        self.tenant = tenant
        self.memory: tuple[int, int] | None = None
        self.keys = Keys(tenant, buckets)
        self.listed = Listed()
        self.alert_keys: dict[bytes, bytes] = {}
        self.reading, self.changing = Gate(READERS), Gate(CHANGERS)
        self._buckets = buckets
        self._old = OldKeys(tenant)
        self._begun = False
        self.watches = False
        self.tells = False
        self.moving = False
        self._mover: asyncio.Task[None] | None = None
        self._timeout_s = timeout_ms / 1000
        self.replicas = replicas
        self.wait = encoder.packed([b"WAIT", b"%d" % replicas, b"%d" % (timeout_ms * 0.8)]) if replicas else b""
        self._connect(url)

    def _connect(self, url: str) -> None:
        self.node = Node(connections_of(url, self._timeout_s), self._timeout_s)

    async def ask(self, *commands: Sequence[bytes], twice: bool = True) -> list[Any]:
        """Send commands at once, on a connection of their own, and wait for their replies, errors among them.

        Args:
            twice: they may be done twice, and are sent again if the connection is lost before the replies come.
        """
        return await self.node.exchange(b"".join(map(encoder.packed, commands)), len(commands), twice)

    async def ask_one(self, *command: bytes, twice: bool = True) -> Any:
        """The reply to one command. Raises the error that Redis replies."""
        replies = await self.ask(command, twice=twice)
        raise_first(replies)
        return replies[0]

    async def ask_each(self, commands: Iterable[Sequence[bytes]]) -> list[Any]:
        """The replies, errors among them, to commands of different buckets, all sent at once."""
        return await self.ask(*commands)

    async def _in_all(self, commands: Iterable[Sequence[bytes]]) -> list[Any]:
        """The replies to commands of different buckets, all sent at once. Raises the first error that Redis replies."""
        replies = await self.ask_each(commands)
        raise_first(replies)
        return replies

    def check_wait(self, replies: Sequence[Any]) -> None:
        """Raise TooFewReplicas if the reply to `wait` says so."""
        if replies and replies[0] < self.replicas:
            raise TooFewReplicas(f"{replies[0]} of {self.replicas} replicas")

    async def replicated(self, keys: Sequence[bytes]) -> None:
        """Wait until as many replicas as are asked for have what was written under keys. Raises StoreUnavailable."""
        if self.replicas:
            async with self.within("wait for replicas"):
                await self._wait_for_replicas(keys)

    async def _wait_for_replicas(self, keys: Sequence[bytes]) -> None:
        replies = await self.node.exchange(encoder.packed([b"SET", barrier_of(keys[0]), b"1"]) + self.wait, 2)
        raise_first(replies)
        self.check_wait(replies[1:])

    def _keys_of_alert(self, alert: bytes) -> list[bytes]:
        """The set that holds an alert; all of them where this process has neither saved nor read it."""
        key = self.alert_keys.get(alert)
        return [sets.alerts for sets in self.keys.sets] if key is None else [key]

    def note_alerts(self, writes: Writes, of: Sequence[StreamKeys]) -> None:
        """Alerts are about to be saved."""
        if len(self.alert_keys) > KNOWN_ALERTS:
            self.alert_keys.clear()
        self.alert_keys.update({alert: of[row].sets.alerts for row, alert in writes.alerts})

    async def know_buckets(self) -> None:
        """Have asked Redis how many buckets there are."""
        if not self._begun:
            async with self.within("ask for the number of buckets"):
                pass

    async def begin_keys(self) -> None:
        """Ask Redis how many buckets its keys have, and begin to move those of the version before, if there are any."""
        buckets, moving = await self.ask_one(*self._old.begin(self.keys, self._buckets))
        self._know(int(buckets))
        self.moving = moving is not None
        if self.moving and (self._mover is None or self._mover.done()):
            self._mover = asyncio.create_task(self._move_all(), name="move streams")

    def _know(self, buckets: int) -> None:
        if buckets != self.keys.buckets:
            self.keys, self.listed = Keys(self.tenant, buckets), Listed()
        self._begun = True

    def note_new(self, writes: Writes, of: Sequence[StreamKeys]) -> None:
        """Say which of the streams that are to be saved are to be listed and, if new, to be watched; and who tells."""
        writes.tells = self.tells
        writes.unlisted = self.listed.missing(of, writes.fences)
        if self.watches:
            writes.unwatched = [row for row in writes.unlisted if not writes.fences[row]]

    def other_buckets(self) -> str:
        """What to tell an operator whose setting differs from what Redis has; empty where it does not."""
        if self.keys.buckets == self._buckets:
            return ""
        return (
            f"GATEWATCH_SLOT_BUCKETS is {self._buckets}, and the streams in this Redis are kept in "
            f"{self.keys.buckets} buckets, which stays so: set it to {self.keys.buckets}"
        )

    async def move(self, streams: Sequence[StreamKey]) -> list[StreamKey]:
        """Move those of some streams that are still under their old keys; which they were."""
        moved = []
        for start in range(0, len(streams), AT_ONCE):
            some = streams[start : start + AT_ONCE]
            for stream, answer in zip(some, await self.ask_one(*self._old.move(self.keys, some)), strict=True):
                if answer == 1:
                    moved.append(stream)
                elif answer < 0:
                    log.error("the version before wrote a stream that was moved; it is left there", stream=stream.name)
        return moved

    async def _move_all(self) -> None:
        """Move all streams that the version before listed, and what it did not tell. Goes on after trouble."""
        count = told = passes = 0
        while self.moving:
            try:
                async with self.within("move streams"):
                    names = await self.ask_one(b"ZRANGE", self._old.streams, b"0", b"%d" % (AT_ONCE - 1))
                    count += len(await self.move([StreamKey(self.tenant, name.decode()) for name in names]))
                    if not names:
                        await self._move_alerts()
                        if passes:
                            await self.ask_one(*self._old.close())
            except StoreUnavailable:
                names = []
            if not names:
                passes += 1
                if count > told:
                    log.info("streams of the version before were moved to their new keys", streams=count)
                    told = count
                await asyncio.sleep(MOVE_AGAIN_S)

    async def _move_alerts(self) -> None:
        alerts = await self.ask_one(b"ZRANGE", self._old.alerts, b"0", b"-1", b"WITHSCORES")
        if alerts:
            told = [
                part for alert, at in pairs(alerts) for part in (at if isinstance(at, bytes) else b"%f" % at, alert)
            ]
            replies = await self.ask(
                [b"MULTI"], [b"ZADD", self.keys.sets[0].alerts, *told], [b"DEL", self._old.alerts], [b"EXEC"]
            )
            raise_first(replies)

    def old_open(self) -> list[bytes]:
        """The set of open anomalies of the layout before, while its streams are moved."""
        return [self._old.open] if self.moving else []

    async def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What stands under keys; None where nothing does, or what is none of ours."""
        found: list[bytes | None] = await self.ask_one(b"MGET", *keys)
        return found

    async def save(self, writes: Writes, expected: Sequence[bytes] | None = None) -> list[bool]:
        """Save each stream whose record still carries its fence; say which did. One round trip.

        It may be sent twice: of what was saved already, the record no longer has its fence.

        Args:
            expected: whole records to be compared instead of the fences.
        """
        async with self.within(f"save {len(writes.streams)} states"):
            of = self.keys.of(writes.streams)
            self.note_new(writes, of)
            try:
                replies = await self._run_save(writes, of, expected or writes.fences)
            except NoScriptError:  # a server that does not know it has done nothing, so sending it again is safe
                await self.node.load_script()
                replies = await self._run_save(writes, of, expected or writes.fences)
            return await self.note_saved(of, replies)

    async def _run_save(self, writes: Writes, of: Sequence[StreamKeys], expected: Sequence[bytes]) -> list[int]:
        whole, count = encoder.comparison(self.keys, writes, of, expected)
        replies = await self.node.exchange(whole + self.wait, count + bool(self.wait))
        raise_first(replies)
        self.check_wait(replies[count:])
        saved: list[int] = replies[0]
        return saved

    async def note_saved(self, of: Sequence[StreamKeys], replies: Sequence[int]) -> list[bool]:
        """Which streams save.lua, or a transaction in its place, has saved; those missing in their list are listed."""
        saved = [number == 1 for number in replies[: len(of)]]
        sets = encoder.sets_of(of)
        counts = {
            some.streams: None if count < 0 else count for some, count in zip(sets, replies[len(of) :], strict=True)
        }
        streams = of if all(saved) else [key for key, ok in zip(of, saved, strict=True) if ok]
        gone = self.listed.note(streams, counts)
        if gone:
            await self._list_again(streams, [name for name in gone if counts[name] is not None])
        return saved

    async def _list_again(self, streams: Sequence[StreamKeys], lists: Sequence[bytes]) -> None:
        members = {name: [key.member for key in streams if key.sets.streams == name] for name in lists}
        commands = [
            [b"ZADD", name, *(part for member in of for part in (b"0", member))] for name, of in members.items() if of
        ]
        if commands:
            with contextlib.suppress(RedisError, OSError):  # else they are listed with their next readings
                await self.ask_each(commands)

    async def replace_histories(self, of: Sequence[StreamKeys], slots: Sequence[tuple[int, int, bytes]]) -> None:
        """Write pieces of histories under whose keys another program keeps something; that gives way."""
        names = [of[row].history for row, _, _ in slots]
        placed = [part for _, offset, piece in slots for part in (b"%d" % offset, piece)]
        await self.ask_one(b"EVAL", _REPLACE_HISTORY, b"%d" % len(names), *names, *placed)

    async def ping(self) -> bool:
        """Whether Redis answers a PING within PING_S, with a refusal perhaps."""
        try:
            async with Translated(self, "ping", PING_S, begun=True):
                await self.ask([b"PING"])
        except StoreUnavailable:
            return False
        return True

    @property
    def signs(self) -> Signs:
        """Whether Redis answers anything."""
        return self.node

    def within(self, what: str) -> Translated:
        """`translated`, with the time-out of a command; the number of buckets is known inside."""
        return Translated(self, what, self._timeout_s, self._begun, self.signs)

    def translated(self, what: str) -> Translated:
        """Whatever goes wrong with the store in a block becomes StoreUnavailable."""
        return Translated(self, what, None, begun=True)

    async def foreign(self) -> str:
        """Which of the tenant's keys holds a value of another kind than ours, and what to do; empty if none does."""
        kinds: Mapping[bytes, str] = {
            self.keys.epoch: "string",
            self.keys.takeover: "hash",
            self.keys.rules: "hash",
            **{key: "zset" for sets in self.keys.sets for key in sets},
        }
        with contextlib.suppress(Exception):
            replies = await self.ask_each([b"TYPE", key] for key in kinds)
            for (key, expected), reply in zip(kinds.items(), replies, strict=True):
                if (found := text(reply)) not in (expected, "none"):
                    name = key.decode()
                    return (
                        f"the key {name} in Redis holds a {found} of somebody else's; expected a {expected} of this "
                        f"service. Move it away (redis-cli RENAME '{name}' '{name}.foreign'), then send the same "
                        "request again: nothing is lost"
                    )
        return ""

    def lies_in(self, tags: Collection[bytes]) -> Callable[[StreamKey], bool]:
        """Whether a stream's keys have one of these hash tags."""
        return lambda stream: tag_of(self.keys[stream].record) in tags

    async def drop_idle(self) -> None:
        """Close the connections that nobody uses: the next ones go to whichever server has the address now."""
        await self.node.drop_idle()

    async def close(self) -> None:
        """Close all connections."""
        if self._mover is not None:
            self._mover.cancel()
        await self.drop_idle()


async def again_if_lost(work: Callable[[], Awaitable[T]]) -> T:
    """Do it, and once again if the connection is lost; for what may be done twice."""
    try:
        return await work()
    except ConnectionLost:
        return await work()


def text(value: object) -> str:
    """What Redis says, which may be bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def pairs(found: Sequence[Any]) -> list[tuple[bytes, Any]]:
    """Members and scores: one list in protocol 2, pairs in protocol 3."""
    if found and isinstance(found[0], (list, tuple)):
        return [(member, score) for member, score in found]
    return list(zip(found[::2], found[1::2], strict=True))
