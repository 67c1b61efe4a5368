"""Where keys are kept: in Redis, where commands change them, or in a file that is mounted."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from gatewatch.models.errors import GatewatchError
from gatewatch.service.access.keys import Key
from gatewatch.service.access.redis_keys import CHANGED, KEYS
from gatewatch.service.storage.cluster_store import store_of
from gatewatch.service.storage.connection import raise_first
from gatewatch.service.storage.database import Database

LARGEST_FILE: Final = 8 * 2**20


class KeyStore(Protocol):
    """Keys, to look at and to change."""

    async def load(self) -> list[Key]:
        """All of them, the oldest first."""

    async def add(self, key: Key) -> None:
        """Keep a new one."""

    async def revoke(self, key_id: str) -> None:
        """It is good for nothing from now on."""

    async def retire(self, key_id: str, at: float) -> None:
        """It is good until then, in Unix seconds."""


class RedisKeys:
    """Keys in Redis. Every method raises StoreUnavailable when Redis does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def changed(self) -> bytes:
        """A word that is another one after each change; empty where there never was a key."""
        async with self._database.within("look whether keys have changed"):
            word: bytes | None = await self._database.ask_one(b"GET", CHANGED)
            return word or b""

    async def load(self) -> list[Key]:
        """All keys, the oldest first. What is no key of ours is left out."""
        async with self._database.within("load the keys"):
            found = _pairs(await self._database.ask_one(b"HGETALL", KEYS))
        keys = []
        for field, content in found.items():
            if b":" in field:
                continue
            try:
                key = msgspec.json.decode(content, type=Key)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
            revoked, until = _time(found.get(field + b":revoked")), _time(found.get(field + b":until"))
            ends = [at for at in (key.expires, until) if at is not None]
            keys.append(msgspec.structs.replace(key, revoked=revoked, expires=min(ends, default=None)))
        return sorted(keys, key=lambda key: (key.created, key.id))

    async def add(self, key: Key) -> None:
        await self._set(key.id, msgspec.json.encode(key))

    async def revoke(self, key_id: str) -> None:
        await self._set(f"{key_id}:revoked", b"%.3f" % time.time())

    async def retire(self, key_id: str, at: float) -> None:
        await self._set(f"{key_id}:until", b"%.3f" % at)

    async def _set(self, field: str, content: bytes) -> None:
        async with self._database.within("change the keys"):
            raise_first(
                await self._database.ask(
                    [b"MULTI"],
                    [b"HSET", KEYS, field.encode(), content],
                    [b"SET", CHANGED, secrets.token_hex(8).encode()],
                    [b"EXEC"],
                )
            )
        await self._database.replicated([KEYS])


async def keys_in_redis(url: str, timeout_ms: int) -> list[Key]:
    """All keys in Redis, for whoever asks once. Raises StoreUnavailable."""
    database = store_of(url, "", timeout_ms)
    try:
        return await RedisKeys(database).load()
    finally:
        await database.close()


class FileKeys:
    """Keys in a JSON file, a list of what `Key` has. Every method raises GatewatchError for a file that is none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> tuple[int, ...]:
        """What is another one after each change of the file; empty where there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    async def load(self) -> list[Key]:
        return self.read()

    def read(self) -> list[Key]:
        """All keys, in the order of the file."""
        try:
            with self.path.open("rb") as file:
                content = file.read(LARGEST_FILE + 1)
        except OSError as error:
            raise GatewatchError(f"{self.path}: the keys cannot be read: {error.strerror}") from error
        try:
            if len(content) > LARGEST_FILE:
                raise ValueError(f"more than {LARGEST_FILE} bytes")
            keys = msgspec.json.decode(content or b"[]", type=list[Key])
            if len({key.id for key in keys}) < len(keys):
                raise ValueError("two keys with one id")
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise GatewatchError(
                f"{self.path}: no list of keys, as gatewatch keys create writes it: {error}"
            ) from error
        return keys

    async def add(self, key: Key) -> None:
        self._write([*(self.read() if self.path.exists() else []), key])

    async def revoke(self, key_id: str) -> None:
        self._change(key_id, revoked=round(time.time(), 3))

    async def retire(self, key_id: str, at: float) -> None:
        self._change(key_id, expires=at)

    def _change(self, key_id: str, **changes: Any) -> None:
        self._write([msgspec.structs.replace(key, **changes) if key.id == key_id else key for key in self.read()])

    def _write(self, keys: list[Key]) -> None:
        """Write a new file and rename it, so that no reader meets half of it."""
        lines = json.dumps([msgspec.to_builtins(key) for key in keys], indent=1) + "\n"
        try:
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}-")
            try:
                with os.fdopen(handle, "w") as file:
                    file.write(lines)
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).replace(self.path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise GatewatchError(f"{self.path}: the keys cannot be written: {error.strerror}") from error


def _time(text: bytes | None) -> float | None:
    """A time as it is kept; one that cannot be read is long past, so that it lets nobody in."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return 0.0


def _pairs(found: Any) -> dict[bytes, bytes]:
    """What HGETALL answers: a list in protocol 2, a map in protocol 3."""
    return found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))
