"""StateStore: stream states and histories in Redis; load, compare-and-set, recover. No command is ever sent twice."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import hiredis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from service.errors import StoreUnavailable

REMEMBERED_KEYS = 65_536
_SAVE = Path(__file__).with_name("save.lua").read_text()


@dataclass
class Write:
    """What is to be saved of one stream: its record, if Redis still holds `fence`, and the new slots of its history."""

    stream: str
    fence: bytes
    record: bytes = b""
    new_history: bool = False
    slots: list[tuple[int, bytes]] = field(default_factory=list)


class StateStore:
    """The states of one tenant's streams in Redis.

    Every command has a time-out and none is sent again by the library: redis-py's default of ten retries applied
    213 of 3,000 increments twice (measured). Whatever goes wrong comes out as StoreUnavailable.
    """

    def __init__(self, url: str, tenant: str, timeout_ms: int) -> None:
        """Raises ValueError when `url` is not a Redis URL; connects with the first command."""
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=timeout_ms / 1000,
            socket_connect_timeout=timeout_ms / 1000,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
            decode_responses=False,
        )
        pool = self._redis.connection_pool
        pool.connection_class = type("PackedInC", (_PackedInC, pool.connection_class), {})
        self._tenant = _encode(tenant)
        self._open_key = f"gatewatch:{{{self._tenant}}}:open"
        self._save_sha = ""
        self._prefix = lru_cache(REMEMBERED_KEYS)(lambda stream: f"gatewatch:{{{self._tenant}.{_encode(stream)}}}")

    def key(self, stream: str, what: str) -> str:
        """`gatewatch:{base64url(tenant).base64url(stream)}:what`: unambiguous, one cluster slot for a stream."""
        return f"{self._prefix(stream)}:{what}"

    async def load(self, streams: Sequence[str]) -> list[bytes | None]:
        """The streams' records as bytes, None for a stream without one. One round trip."""
        async with _translated(f"load {len(streams)} states"):
            return cast("list[bytes | None]", await self._redis.mget([self.key(stream, "state") for stream in streams]))

    async def load_histories(self, streams: Sequence[str]) -> list[bytes]:
        """The streams' history rings as bytes, empty for a stream without one. One round trip."""
        async with _translated(f"load {len(streams)} histories"):
            keys = [self.key(stream, "history") for stream in streams]
            return [ring or b"" for ring in cast("list[bytes | None]", await self._redis.mget(keys))]

    async def save(self, writes: Sequence[Write]) -> list[bool]:
        """Save each stream whose record is still the one that was loaded; say which were. One round trip."""
        keys: list[str] = []
        arguments: list[bytes | int] = []
        for write in writes:
            keys += (self.key(write.stream, "state"), self.key(write.stream, "history"))
            arguments += (write.fence, write.record, int(write.new_history), len(write.slots))
            for offset, slot in write.slots:
                arguments += (offset, slot)
        async with _translated(f"save {len(writes)} states"):
            answers = await self._run_save(len(keys), [*keys, *arguments])
            return [answer == 1 for answer in answers]

    async def _run_save(self, keys: int, arguments: list[Any]) -> list[int]:
        """Run save.lua by its hash. A server that does not know it has done nothing, so sending it whole is safe."""
        try:
            if self._save_sha:
                return cast("list[int]", await self._redis.evalsha(self._save_sha, keys, *arguments))
        except NoScriptError:
            pass
        self._save_sha = await self._redis.script_load(_SAVE)
        return cast("list[int]", await self._redis.evalsha(self._save_sha, keys, *arguments))

    async def mark_open(self, opened: Sequence[str], closed: Sequence[str]) -> None:
        """Keep the set of streams with an open anomaly, by the time of their last reading."""
        async with _translated("mark open anomalies"), self._redis.pipeline(transaction=False) as pipeline:
            if opened:
                now = time.time()
                pipeline.zadd(self._open_key, {_encode(stream): now for stream in opened})
            if closed:
                pipeline.zrem(self._open_key, *map(_encode, closed))
            await pipeline.execute()

    async def count_open(self, within_s: float) -> int:
        """How many streams have an open anomaly and sent a reading within the last `within_s` seconds."""
        async with _translated("count open anomalies"):
            return int(await self._redis.zcount(self._open_key, time.time() - within_s, "+inf"))

    async def check(self, strict: bool) -> None:
        """Ask Redis whether it keeps states: it answers, never evicts, and has an append-only file if `strict`.

        Raises:
            StoreUnavailable: says what Redis answered and what to change.
        """
        async with _translated("check Redis"):
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

    async def close(self) -> None:
        """Close all connections."""
        await self._redis.aclose()


class _PackedInC:
    """A connection that packs its commands with hiredis: redis-py's asyncio connections do it in Python, for half of
    the CPU time of a batch's save (8,000 arguments)."""

    def pack_command(self, *arguments: Any) -> list[bytes]:
        """Name and arguments in the Redis protocol; a name of two words is two arguments."""
        name, *rest = arguments
        words = name.encode().split() if isinstance(name, str) else name.split()
        return [hiredis.pack_command((*words, *rest))]


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _encode(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


@contextlib.asynccontextmanager
async def _translated(what: str) -> AsyncIterator[None]:
    """Whatever goes wrong with the store becomes StoreUnavailable.

    Beside RedisError and OSError, uvloop raises a bare RuntimeError out of redis-py when a transport closes under it.
    """
    try:
        yield
    except Exception as error:
        raise StoreUnavailable(f"could not {what}: {type(error).__name__}: {error}; send the readings again") from error
