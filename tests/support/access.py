"""Keys for tests."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gatewatch.service.access.key_store import FileKeys, RedisKeys
from gatewatch.service.access.keys import Key, make
from gatewatch.service.access.scopes import Scope
from gatewatch.service.storage.cluster_store import store_of
from tests.support.samples import PATIENT_MS

WAITING_MS = 1000
"""A time-out where replicas are waited for, which takes nearly all of it if there are none."""


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def add_to_file(file: Path, tenant: str, *scopes: Scope, expires: float | None = None) -> str:
    """A new key in a file of keys."""
    secret, key = make(tenant, scopes, "of a test", expires)
    asyncio.run(FileKeys(file).add(key))
    return secret


def add_to_redis(url: str, tenant: str, *scopes: Scope, expires: float | None = None, replicas: int = 0) -> str:
    """A new key in Redis. Not in the one that tests share: from then on its services ask everybody for keys."""
    secret, key = make(tenant, scopes, "of a test", expires)

    async def add(store: RedisKeys) -> None:
        await store.add(key)

    with_redis_keys(url, add, replicas)
    return secret


def revoke(url: str, secret: str, replicas: int = 0) -> None:
    async def end(store: RedisKeys) -> None:
        await store.revoke(secret[3:15])

    with_redis_keys(url, end, replicas)


def with_redis_keys(url: str, work: object, replicas: int = 0) -> list[Key]:
    """Do something with the keys in Redis, and say which there are then."""

    async def ask() -> list[Key]:
        database = store_of(url, "any", WAITING_MS if replicas else PATIENT_MS, replicas=replicas)
        try:
            await work(RedisKeys(database))  # type: ignore[operator]
            return await RedisKeys(database).load()
        finally:
            await database.close()

    return asyncio.run(ask())
