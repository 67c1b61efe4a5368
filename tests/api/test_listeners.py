"""Who listens to incidents may listen as long as its key is good, and no longer."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from redis import Redis

from gatewatch.service.access import key_ring
from gatewatch.service.access.key_store import FileKeys
from gatewatch.service.access.keys import make
from gatewatch.service.app import create_app
from gatewatch.service.settings import Settings
from gatewatch.service.storage.private_redis import start_private_redis
from tests.support.access import add_to_file, add_to_redis, revoke


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[str]:
    with start_private_redis(tmp_path / "redis") as private:
        yield private.url


@dataclass
class Listener:
    """A request for the incidents as they change, handed to the app as a server does."""

    app: FastAPI
    key: str
    messages: list[Any] = field(default_factory=list)

    def begin(self) -> None:
        self.answered = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            self.messages.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": "",
            "method": "GET", "path": "/v1/incidents/stream", "raw_path": b"/v1/incidents/stream", "query_string": b"",
            "headers": [(b"x-api-key", self.key.encode())], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
            "state": {},
        }  # fmt: skip
        await self.app(scope, receive, send)

    @property
    def status(self) -> int | None:
        return self.messages[0]["status"] if self.messages else None


async def until(reached: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not reached():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.05)


async def is_outlived(app: FastAPI, ending: list[str], lasting: list[str], end: Callable[[], Awaitable[None]]) -> None:
    """Listen with each key, have some keys end and wait until their listeners have; the others hear more after that."""
    async with app.router.lifespan_context(app):
        known, keys = app.state.parts.access.keys, [*ending, *lasting]
        await until(lambda: all(key[3:15].encode() in known.known for key in keys))
        listeners = [Listener(app, key) for key in keys]
        for listener in listeners:
            listener.begin()
        await until(lambda: all(listener.status == 200 for listener in listeners))
        await end()
        ended, others = listeners[: len(ending)], listeners[len(ending) :]
        await until(lambda: all(listener.answered.done() for listener in ended))
        assert all(listener.messages[-1]["more_body"] is False for listener in ended)  # as a client takes it up again
        heard = [len(listener.messages) for listener in others]
        await until(lambda: all(len(one.messages) > before + 1 for one, before in zip(others, heard, strict=True)))
        assert not any(listener.answered.done() for listener in others)
        for listener in others:
            listener.answered.cancel()
        await asyncio.gather(*(listener.answered for listener in others), return_exceptions=True)


def test_a_listener_ends_when_its_key_is_revoked_has_expired_or_may_do_less(
    settings: Callable[..., Settings], own_redis: str, tenant: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    kept, expiring = add_to_file(file, tenant, "read"), add_to_file(file, tenant, "read")
    secret, less = make(tenant, ("read",), "of a test")
    asyncio.run(FileKeys(file).add(less))
    revoked, other = (add_to_redis(own_redis, tenant, "read") for _ in range(2))
    app = create_app(settings(redis_url=own_redis, keys_file=file))

    async def end() -> None:
        content = file.read_text()
        at = content.index(less.id)
        file.write_text(content[:at] + content[at:].replace('"read"', '"ingest"', 1))
        await FileKeys(file).retire(expiring[3:15], time.time() + 2)
        await asyncio.to_thread(revoke, own_redis, revoked)

    asyncio.run(is_outlived(app, [revoked, expiring, secret], [kept, other], end))


def test_a_listener_whose_key_redis_does_not_confirm_ends_and_one_of_a_file_does_not(
    settings: Callable[..., Settings], own_redis: str, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_ring, "MAX_AGE_S", 0.5)
    monkeypatch.setattr(key_ring, "LOOK_S", 0.1)
    file = tmp_path / "keys.json"
    in_redis, in_file = add_to_redis(own_redis, tenant, "read"), add_to_file(file, tenant, "read")
    app = create_app(settings(redis_url=own_redis, keys_file=file, store_timeout_ms=200))
    with Redis.from_url(own_redis) as redis:
        pid = int(redis.info("server")["process_id"])

    async def end() -> None:
        os.kill(pid, signal.SIGSTOP)

    try:
        asyncio.run(is_outlived(app, [in_redis], [in_file], end))
    finally:
        os.kill(pid, signal.SIGCONT)
