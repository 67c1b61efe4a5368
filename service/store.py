"""StateStore over Redis: load, compare-and-set, history. Knows bytes and keys, nothing of what is in them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Connection, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service import state
from service.errors import ForeignValue, StoreUnavailable
from service.remembered import Remembered

REMEMBERED_KEYS = 65_536
REMEMBERED_BYTES = 64 * 2**20
TIMEOUT_SLICES = 5
PING_S = 0.1
"""For an answer to a PING: with the time-out before it, those who wait behind a failed batch hear within 500 ms."""

IDLE_LINKS = 4
"""Kept for the next batch. One is enough for the batches; settings and corrections take others at the same time."""

_SAVE = Path(__file__).with_name("save.lua").read_text()
_SET_SLOTS = b"""
for i = 1, #KEYS do
  if type(redis.pcall('SETRANGE', KEYS[i], ARGV[2 * i - 1], ARGV[2 * i])) == 'table' then
    redis.call('DEL', KEYS[i])
    redis.call('SETRANGE', KEYS[i], ARGV[2 * i - 1], ARGV[2 * i])
  end
end"""
"""Write pieces of histories; a foreign value under one of the keys gives way, and costs no neighbour anything."""


@dataclass
class Writes:
    """What is to be saved of several streams, in columns.

    Attributes:
        streams: their names, each once.
        fences: what the record must still begin with, see state.FENCE; b"" where there was none.
        records: the new records.
        slots: row in the columns above, offset and bytes of each new piece of history.
        anew: rows whose history is begun anew.
        earlier: row and slot (0 or 1) to an earlier record that is kept.
        opened, closed: streams that are in an incident; streams whose incident ended.
    """

    streams: list[str] = field(default_factory=list)
    fences: list[bytes] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    slots: list[tuple[int, int, bytes]] = field(default_factory=list)
    anew: list[int] = field(default_factory=list)
    earlier: dict[tuple[int, int], bytes] = field(default_factory=dict)
    opened: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)


class StateStore:
    """The states of one tenant's streams in Redis.

    Every command has a time-out and none is sent again by the library: redis-py's default of ten retries applied
    213 of 3,000 increments twice (measured). Whatever goes wrong comes out as StoreUnavailable.
    """

    def __init__(self, url: str, tenant: str, timeout_ms: int, remembered_bytes: int = REMEMBERED_BYTES) -> None:
        """Raises ValueError when `url` is not a Redis URL; connects with the first command."""
        self._timeout_s = timeout_ms / 1000
        no_retry: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "health_check_interval": 0}
        self._redis: Redis = Redis.from_url(
            url, socket_timeout=self._timeout_s, socket_connect_timeout=self._timeout_s, **no_retry
        )
        # a link carries whole batches under one time-out of ours; redis-py's own costs a task for each command
        links = Redis.from_url(
            url, socket_timeout=None, socket_connect_timeout=self._timeout_s, **no_retry
        ).connection_pool
        self._new_link: Callable[[], Connection] = links.make_connection
        self._idle_links: list[Connection] = []
        self._tenant = _encode(tenant)
        self._open_key = f"gatewatch:{{{self._tenant}}}:open"
        self._streams_key = f"gatewatch:{{{self._tenant}}}:streams"
        self._epoch_key = f"gatewatch:{{{self._tenant}}}:epoch"
        self._epoch: bytes | None = None
        self._save_sha = ""
        self.remembered = Remembered(remembered_bytes)
        self._keys = lru_cache(REMEMBERED_KEYS)(self._new_keys)

    def _new_keys(self, stream: str) -> tuple[bytes, bytes, int]:
        key = self.key(stream, "state").encode()
        return key, self.key(stream, "history").encode(), state.seed(key)

    def seeds(self, streams: Sequence[str]) -> list[int]:
        """Where the checksums of the streams' records start."""
        return [self._keys(stream)[2] for stream in streams]

    def _earlier_keys(self, stream: str) -> tuple[bytes, bytes]:
        return self.key(stream, "earlier:0").encode(), self.key(stream, "earlier:1").encode()

    def key(self, stream: str, what: str) -> str:
        """`gatewatch:{base64url(tenant).base64url(stream)}:what`: unambiguous, one cluster slot for a stream."""
        return f"gatewatch:{{{self._tenant}.{_encode(stream)}}}:{what}"

    async def load(self, streams: Sequence[str]) -> list[bytes | None]:
        """The streams' records as bytes, None for a stream without one. One round trip."""
        async with self.translated(f"load {len(streams)} states"):
            return cast("list[bytes | None]", await self._redis.mget([self._keys(stream)[0] for stream in streams]))

    async def load_histories(self, streams: Sequence[str]) -> list[bytes]:
        """The streams' history rings as bytes, empty for a stream without one. One round trip."""
        return await self._load_values([self._keys(stream)[1] for stream in streams], "histories")

    async def load_settings(self, streams: Sequence[str]) -> list[bytes]:
        """What was saved as the streams' settings, empty for a stream without any. One round trip."""
        return await self._load_values([self.key(stream, "settings").encode() for stream in streams], "settings")

    async def load_earlier(self, stream: str) -> list[bytes]:
        """The two earlier records of a stream with a reorder window, empty where there is none."""
        return await self._load_values(self._earlier_keys(stream), "earlier records")

    async def _load_values(self, keys: Sequence[bytes], what: str) -> list[bytes]:
        async with self.translated(f"load {len(keys)} {what}"):
            return [value or b"" for value in cast("list[bytes | None]", await self._redis.mget(keys))]

    async def save_settings(self, stream: str, settings: bytes) -> None:
        """Keep a stream's settings, for the day its record is lost."""
        async with self.translated("save settings"):
            await self._redis.set(self.key(stream, "settings"), settings)

    async def quarantine(self, stream: str, record: bytes) -> None:
        """Keep a copy of a record that cannot be read, for a look later; the last one of a stream stays."""
        async with self.translated("quarantine a record"):
            await self._redis.set(self.key(stream, "quarantine"), record)

    async def delete(self, stream: str) -> bool:
        """Forget a stream; says whether there was anything of it."""
        self.remembered.forget((stream,))
        whats = ("state", "history", "earlier:0", "earlier:1", "settings", "quarantine")
        async with self.translated("delete a stream"), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.delete(*(self.key(stream, what) for what in whats))
            pipeline.zrem(self._open_key, stream)
            pipeline.zrem(self._streams_key, stream)
            return bool((await pipeline.execute())[0])

    @contextlib.asynccontextmanager
    async def hold(self, streams: Sequence[str], remembered: bool = False) -> AsyncIterator[Held]:
        """Load the records of streams, each named once, and watch them until they are saved.

        The save is then one plain transaction for the whole batch, at half of the cost of a script that compares
        every stream (Redis: 7 against 14 µs a stream, measured). With `remembered`, a few streams whose records this
        process saved last are not loaded at all: the script compares these records, and one round trip is saved.
        """
        known = self.remembered.of(streams) if remembered else None
        link = self._idle_links.pop() if self._idle_links else self._new_link()
        held = Held(self, link, self._timeout_s, known)
        try:
            async with self.translated(f"load {len(streams)} states", self._timeout_s):
                await held.load([self._keys(stream)[0] for stream in streams])
            yield held
        except BaseException:
            await link.disconnect(nowait=True)  # with it go the watch and whatever answer is still on its way
            self.remembered.forget(streams)
            raise
        if len(self._idle_links) < IDLE_LINKS:
            self._idle_links.append(link)
        else:
            await link.disconnect(nowait=True)

    async def save(self, writes: Writes, expected: Sequence[bytes] | None = None) -> list[bool]:
        """Save each stream whose record still carries its fence; say which did. One round trip.

        Args:
            expected: whole records to be compared instead of the fences.
        """
        async with self.translated(f"save {len(writes.streams)} states"):
            saved = [answer == 1 for answer in await self._run_save(*self._compared(writes, expected or writes.fences))]
            await self.set_for(writes, saved)
            return saved

    def comparison(self, writes: Writes, records: Sequence[bytes]) -> bytes:
        """The command that saves each stream whose record is still this one, packed."""
        keys, arguments = self._compared(writes, records)
        return _packed([b"EVALSHA", self._save_sha.encode(), b"%d" % keys, *arguments])

    def _compared(self, writes: Writes, expected: Sequence[bytes]) -> tuple[int, list[bytes]]:
        """What save.lua is called with: the number of keys; keys and arguments."""
        keys: list[bytes] = []
        arguments: list[bytes] = []
        pieces: list[list[bytes]] = [[] for _ in writes.streams]
        for row, offset, slot in writes.slots:
            pieces[row] += (b"%d" % offset, slot)
        for row, (stream, before, record) in enumerate(zip(writes.streams, expected, writes.records, strict=True)):
            keys += (*self._keys(stream)[:2], *self._earlier_keys(stream))
            arguments += (before, record, *(writes.earlier.get((row, slot), b"") for slot in (0, 1)))
            arguments += (b"%d" % (row in writes.anew), b"%d" % (len(pieces[row]) // 2), *pieces[row])
        return len(keys), [*keys, *arguments]

    async def set_for(self, writes: Writes, saved: Sequence[bool]) -> None:
        """Keep the sets of streams, for those that were saved."""
        mine = {stream for stream, ok in zip(writes.streams, saved, strict=True) if ok}
        for command in self._set_commands(writes, mine):
            await cast(Any, self._redis).execute_command(*command)

    async def _run_save(self, keys: int, arguments: list[Any]) -> list[int]:
        """Run save.lua by its hash. A server that does not know it has done nothing, so sending it whole is safe."""
        try:
            if self._save_sha:
                return cast("list[int]", await self._redis.evalsha(self._save_sha, keys, *arguments))
        except NoScriptError:
            pass
        self._save_sha = await self._redis.script_load(_SAVE)
        return cast("list[int]", await self._redis.evalsha(self._save_sha, keys, *arguments))

    def transaction(self, writes: Writes) -> tuple[list[bytes], int]:
        """The commands that save `writes` in one transaction, packed, and how many they are."""
        keys = [self._keys(stream) for stream in writes.streams]
        commands: list[list[bytes]] = [[b"MULTI"]]
        if writes.anew:
            commands.append([b"DEL", *(keys[row][1] for row in writes.anew)])
        rows, offsets, slots = zip(*writes.slots, strict=True) if writes.slots else ((), (), ())
        placed = [b""] * (2 * len(slots))
        placed[::2], placed[1::2] = map(b"%d".__mod__, offsets), slots
        set_slots = [b"EVAL", _SET_SLOTS, b"%d" % len(slots), *(keys[row][1] for row in rows), *placed]
        set_records = [b""] * (2 * len(keys))
        set_records[::2], set_records[1::2] = (key for key, _, _ in keys), writes.records
        set_records.insert(0, b"MSET")
        for (row, earlier), record in writes.earlier.items():
            set_records += (self._earlier_keys(writes.streams[row])[earlier], record)
        commands += (set_slots, set_records, *self._set_commands(writes, set(writes.streams)), [b"EXEC"])
        return [_packed(command) for command in commands], len(commands)

    def _set_commands(self, writes: Writes, saved: set[str]) -> list[list[bytes]]:
        """Keep the set of all streams, and that of streams with an open anomaly by the time of their last reading."""
        now, key, commands = b"%.3f" % time.time(), self._open_key.encode(), []
        new = [s for s, fence in zip(writes.streams, writes.fences, strict=True) if not fence and s in saved]
        if new:
            commands.append([b"ZADD", self._streams_key.encode(), *(p for s in new for p in (b"0", s.encode()))])
        opened, closed = sorted(writes.opened & saved), sorted(writes.closed & saved)
        if opened:
            commands.append([b"ZADD", key, *(part for stream in opened for part in (now, stream.encode()))])
        if closed:
            commands.append([b"ZREM", key, *(stream.encode() for stream in closed)])
        return commands

    async def count_streams(self) -> int:
        """How many streams there are."""
        async with self.translated("count streams"):
            return int(await self._redis.zcard(self._streams_key))

    async def list_streams(self, after: str, most: int) -> list[str]:
        """Up to `most` names in alphabetical order, those that come behind `after`."""
        async with self.translated("list streams"):
            found = await self._redis.zrange(
                self._streams_key, f"({after}" if after else "-", "+", bylex=True, offset=0, num=most
            )
            return [name.decode() for name in cast("list[bytes]", found)]

    async def count_open(self, within_s: float) -> int:
        """How many streams have an open anomaly and sent a reading within the last `within_s` seconds."""
        async with self.translated("count open anomalies"):
            return int(await self._redis.zcount(self._open_key, time.time() - within_s, "+inf"))

    async def check(self, strict: bool) -> None:
        """Ask Redis whether it keeps states: it answers, never evicts, and has an append-only file if `strict`.

        Raises:
            StoreUnavailable: says what Redis answered and what to change.
        """
        async with self.translated("check Redis"):
            memory: dict[str, Any] = await self._redis.info("memory")
            persistence: dict[str, Any] = await self._redis.info("persistence") if strict else {}
            fsync: dict[Any, Any] = await self._redis.config_get("appendfsync") if strict else {}
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        if int(memory.get("maxmemory", 0)) and policy != "noeviction":
            raise StoreUnavailable(
                f"Redis may evict stream states: maxmemory-policy is {policy}; expected noeviction "
                "(redis-cli CONFIG SET maxmemory-policy noeviction)"
            )
        if strict and not (persistence.get("aof_enabled") and _text(fsync.get("appendfsync")) == "always"):
            raise StoreUnavailable(
                "durability is strict, but Redis has "
                f"appendonly {'yes' if persistence.get('aof_enabled') else 'no'} and "
                f"appendfsync {_text(fsync.get('appendfsync'))}; expected yes and always"
            )

    async def answers(self) -> bool:
        """Whether Redis answers a PING within PING_S."""
        try:
            async with self.translated("ping", PING_S):
                await cast(Any, self._redis).ping()
        except StoreUnavailable:
            return False
        return True

    async def lost_everything(self) -> bool:
        """Whether Redis has forgotten all streams since the last time: emptied, or another server.

        Told by a random word that is written when there is none, and must stay.
        """
        async with self.translated("check for lost states"):
            await self._redis.set(self._epoch_key, os.urandom(8).hex(), nx=True)
            epoch = await self._redis.get(self._epoch_key)
        before, self._epoch = self._epoch, cast("bytes | None", epoch)
        return before not in (None, self._epoch)

    @contextlib.asynccontextmanager
    async def translated(self, what: str, timeout_s: float | None = None) -> AsyncIterator[None]:
        """Whatever goes wrong with the store becomes StoreUnavailable.

        Beside RedisError and OSError, uvloop raises a bare RuntimeError out of redis-py when a transport closes
        under it.
        """
        try:
            async with _within(timeout_s):
                yield
        except Exception as error:
            foreign = await self._foreign() if "WRONGTYPE" in str(error) else ""
            if foreign:
                raise ForeignValue(f"could not {what}: {foreign}") from error
            message = f"could not {what}: {_trouble(error)}; nothing is lost, send the same request again"
            raise StoreUnavailable(message) from error

    async def _foreign(self) -> str:
        """Which of the tenant's keys holds a value of another kind than ours, and what to do; empty if none does."""
        kinds = {self._streams_key: "zset", self._open_key: "zset", self._epoch_key: "string"}
        with contextlib.suppress(Exception):
            for key, expected in kinds.items():
                found = _text(await self._redis.type(key))
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
            await link.disconnect()
        await self._redis.aclose()


class Held:
    """Records that were loaded and are watched, on a connection of their own.

    Attributes:
        packed: the records as bytes, None for a stream without one.
    """

    def __init__(self, store: StateStore, link: Connection, timeout_s: float, remembered: list[bytes] | None) -> None:
        self.packed: Sequence[bytes | None] = remembered or []
        self.remembered = remembered
        self._store = store
        self._link = link
        self._timeout_s = timeout_s
        self._sent: tuple[Writes, int] | None = None

    async def load(self, keys: Sequence[bytes]) -> None:
        """Watch, then read, unless remembered. What the batch before left watched is forgotten first."""
        if self._link.is_connected and await self._link.can_read():  # closed by Redis since, or not clean
            await self._link.disconnect(nowait=True)
        if self.remembered is None:
            commands = ([b"UNWATCH"], [b"WATCH", *keys], [b"MGET", *keys])
            await self._link.send_packed_command(list(map(_packed, commands)), check_health=False)
            *_, self.packed = await self._answers(3)
        elif not self._link.is_connected:
            await self._link.connect()  # type: ignore[no-untyped-call]

    async def send(self, writes: Writes) -> None:
        """Send what is to be saved; `saved` waits for the answer, and meanwhile there is time for other things."""
        if self.remembered is None:
            commands, count = self._store.transaction(writes)
        else:
            commands, count = [self._store.comparison(writes, self.remembered)], 1
        async with self._store.translated(f"save {len(writes.streams)} states", self._timeout_s):
            await self._link.send_packed_command(commands, check_health=False)
        self._sent = writes, count

    async def saved(self) -> list[bool]:
        """Which of the streams sent were saved: all, unless another process wrote one of them since the load."""
        if self._sent is None:
            return []
        writes, count = self._sent
        async with self._store.translated(f"save {len(writes.streams)} states", self._timeout_s):
            saved = await (self._committed(writes, count) if self.remembered is None else self._compared(writes))
        if saved is None:
            saved = await self._store.save(writes, self.remembered)  # stream by stream, to find out whose it was
        self._store.remembered.note(writes.streams, writes.records, saved)
        return saved

    async def _committed(self, writes: Writes, count: int) -> list[bool] | None:
        done = (await self._answers(count))[-1]
        for answer in done or ():
            if isinstance(answer, Exception):
                raise answer
        return None if done is None else [True] * len(writes.streams)

    async def _compared(self, writes: Writes) -> list[bool] | None:
        try:
            (answers,) = await self._answers(1)
        except NoScriptError:  # a server that does not know the script has done nothing
            return None
        saved = [answer == 1 for answer in answers]
        await self._store.set_for(writes, saved)
        return saved

    async def _answers(self, count: int) -> list[Any]:
        read = self._link.read_response
        return [await read(disconnect_on_error=False) for _ in range(count)]


def _packed(arguments: Sequence[bytes]) -> bytes:
    """A command in the Redis protocol; hiredis takes ten times as long for the megabyte of a batch (measured)."""
    pieces = [b"*%d" % len(arguments), *[b""] * (2 * len(arguments)), b"\r\n"]
    pieces[1:-1:2] = map(_LENGTHS.__getitem__, map(len, arguments))
    pieces[2:-1:2] = arguments
    return b"".join(pieces)


class _Lengths(dict[int, bytes]):
    """What stands before an argument of so many bytes, each written once."""

    def __missing__(self, length: int) -> bytes:
        written = b"\r\n$%d\r\n" % length
        if length < 65_536:
            self[length] = written
        return written


_LENGTHS = _Lengths()


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _encode(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


@contextlib.asynccontextmanager
async def _within(timeout_s: float | None) -> AsyncIterator[None]:
    """Raise TimeoutError after `timeout_s` in which the event loop ran.

    Of a time in which the loop itself was held up, by a thousand requests at once say, at most a fifth counts: the
    answer may have come long ago and nobody has looked. One stall of 300 ms would else fail all that wait.
    """
    async with asyncio.timeout(None) as limit:
        if timeout_s is None:
            yield
            return
        loop = asyncio.get_running_loop()
        slice_s, left = timeout_s / TIMEOUT_SLICES, TIMEOUT_SLICES
        timer: asyncio.TimerHandle

        def pass_slice() -> None:
            nonlocal left, timer
            left -= 1
            timer = loop.call_later(slice_s, pass_slice)
            if left == 0:
                limit.reschedule(loop.time())

        timer = loop.call_later(slice_s, pass_slice)
        try:
            yield
        finally:
            timer.cancel()


def _trouble(error: Exception) -> str:
    """What is wrong with Redis, for a caller; the error itself is for the log."""
    if isinstance(error, (TimeoutError, RedisTimeoutError)):
        return "Redis did not answer in time"
    if isinstance(error, BusyLoadingError):
        return "Redis has been started and is still reading its data"
    if isinstance(error, (ResponseError, AuthenticationError)):
        return "Redis refused a command (the service's log says why)"
    return "Redis cannot be reached"
