"""KeyRing: the keys as one process knows them, at most MAX_AGE_S old."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from gatewatch.models.errors import GatewatchError
from gatewatch.service.access.key_store import FileKeys, RedisKeys
from gatewatch.service.access.keys import Key, Known
from gatewatch.service.background import repeat

log = structlog.get_logger(__name__)

LOOK_S: Final = 1.0
"""Between two looks whether keys have changed. So a key that is revoked is refused after about a second."""

MAX_AGE_S: Final = 4.0
"""Keys of Redis that were not compared for so long are trusted no more: one of them may have been revoked."""

RELOAD_S: Final = 60.0
"""After so long all are loaded, for what was changed in Redis by hand."""


class KeyRing:
    """Keys of Redis and of a file, by id.

    Attributes:
        any_ever: whether there has been a key since the process began, good or not. It never becomes false again.
    """

    def __init__(self, redis: RedisKeys, file: FileKeys | None) -> None:
        """Raises GatewatchError when the file is no list of keys."""
        self._redis = redis
        self._file = file
        self._stamp: tuple[int, ...] = () if file is None else file.stamp()
        self._of_file = {} if file is None else _by_id(file.read(), of_file=True)
        self._of_redis: dict[bytes, Known] = {}
        self._changed: bytes | None = None
        self._looked = self._loaded = float("-inf")  # seconds, monotonic
        self._looking: asyncio.Task[None] | None = None
        self.any_ever = file is not None
        self.known: dict[bytes, Known] = {**self._of_file}

    @property
    def is_loaded(self) -> bool:
        """Whether the keys in Redis were ever loaded."""
        return self._changed is not None

    def is_fresh(self) -> bool:
        """Whether the keys were compared with those in Redis within MAX_AGE_S."""
        return time.monotonic() - self._looked <= MAX_AGE_S

    async def refresh(self) -> None:
        """Look whether keys have changed; who asks while it looks hears the same. Raises StoreUnavailable."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(self._end_look)
        await asyncio.shield(self._looking)

    def _end_look(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()  # whoever asked has it, if he is still there

    async def run(self) -> None:
        """Look once a second, until cancelled."""

        async def step() -> float:
            await self.refresh()
            return LOOK_S

        await repeat(step, "keys not looked for", LOOK_S)

    async def _look(self) -> None:
        self._look_at_file()
        began = time.monotonic()
        changed = await self._redis.changed()
        if changed != self._changed or began - self._loaded > RELOAD_S:
            self._of_redis = _by_id(await self._redis.load())
            self._changed, self._loaded = changed, began
            self._join()
        self._looked = began

    def _look_at_file(self) -> None:
        if self._file is None or (stamp := self._file.stamp()) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._of_file = _by_id(self._file.read(), of_file=True)
        except GatewatchError as error:
            log.error("the keys of before go on", error=str(error))
        else:
            log.info("keys read", file=str(self._file.path), keys=len(self._of_file))
            self._join()

    def _join(self) -> None:
        self.known = {**self._of_redis, **self._of_file}
        self.any_ever = self.any_ever or bool(self.known)


def _by_id(keys: list[Key], of_file: bool = False) -> dict[bytes, Known]:
    return {key.id.encode(): Known(key, of_file) for key in keys}
