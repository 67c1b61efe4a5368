"""Who reads never takes what writers need: gates, and the connections that are opened."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
import redis

from gatewatch.service.app import create_app
from gatewatch.service.errors import ForeignValue, StoreUnavailable
from gatewatch.service.settings import Settings
from gatewatch.service.storage.gate import Gate
from gatewatch.service.storage.node import IDLE_CONNECTIONS
from gatewatch.service.storage.private_redis import start_private_redis
from tests.support.samples import readings


async def enter(
    gate: Gate, log: list[str], name: str, leave: asyncio.Event, error: Exception | None = None, tenant: str = "t"
) -> None:
    async with gate.of(tenant):
        log.append(name)
        await leave.wait()
        if error is not None:
            raise error


def test_who_waits_at_a_gate_enters_in_order_and_who_gives_up_leaves_his_place() -> None:
    async def run() -> list[str]:
        gate, leave, log = Gate(1), asyncio.Event(), list[str]()
        tasks = [asyncio.create_task(enter(gate, log, name, leave)) for name in "abcd"]
        await asyncio.sleep(0)
        assert log == ["a"]
        tasks[1].cancel()
        leave.set()
        await asyncio.wait(tasks)
        await enter(gate, log, "e", leave)
        return log

    assert asyncio.run(run()) == ["a", "c", "d", "e"]


def test_tenants_that_wait_at_a_gate_enter_in_turn() -> None:
    async def run() -> list[str]:
        gate, leave, log = Gate(1), asyncio.Event(), list[str]()
        names = ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]
        tasks = [asyncio.create_task(enter(gate, log, name, leave, tenant=name[0])) for name in names]
        await asyncio.sleep(0)
        leave.set()
        await asyncio.wait(tasks)
        return log

    assert asyncio.run(run()) == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


def test_a_place_that_is_passed_to_one_who_is_cancelled_goes_on_to_the_next() -> None:
    async def run() -> list[str]:
        gate, leave, log = Gate(1), asyncio.Event(), list[str]()
        async with gate.of("t"):
            tasks = [asyncio.create_task(enter(gate, log, name, leave)) for name in "ab"]
            await asyncio.sleep(0)
            leave.set()
        tasks[0].cancel()
        await asyncio.wait(tasks)
        return log

    assert asyncio.run(run()) == ["b"]


@pytest.mark.parametrize(("error", "entered"), [(StoreUnavailable("away"), 2), (ForeignValue("one"), 5)])
def test_nobody_at_a_gate_waits_for_an_outage_twice(error: Exception, entered: int) -> None:
    """Two are inside and fail; the others fail with them, unless it was one stream's trouble."""

    async def run() -> int:
        gate, leave, log = Gate(2), asyncio.Event(), list[str]()
        tasks = [asyncio.create_task(enter(gate, log, name, leave, error)) for name in "abcde"]
        await asyncio.sleep(0)
        leave.set()
        assert set(map(type, await asyncio.gather(*tasks, return_exceptions=True))) == {type(error)}
        return len(log)

    assert asyncio.run(run()) == entered


def test_a_crowd_of_readers_opens_few_connections_and_fails_nobody(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """Each of them once took a connection of its own, and who found none left got 503; senders among them."""

    async def crowd(app: httpx2.ASGIApp) -> dict[str, Counter[int]]:  # type: ignore[valid-type]
        got = {kind: Counter[int]() for kind in ("read", "list", "history", "put", "ready", "again", "new", "known")}
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://localhost") as client:

            async def ask(kind: str, number: int) -> None:
                stream, body = "known", [*readings("known", 1, start=number + 3)]
                if kind in ("again", "new"):
                    body = readings("known", 1) if kind == "again" else readings(f"new-{number}", 1)
                reply = await {
                    "read": lambda: client.get(f"/v1/streams/{stream}"),
                    "list": lambda: client.get("/v1/streams"),
                    "history": lambda: client.get(f"/v1/streams/{stream}/history"),
                    "put": lambda: client.put("/v1/streams/other", json={}),
                    "ready": lambda: client.get("/readyz"),
                }.get(kind, lambda: client.post("/v1/readings", json=body))()
                got[kind][reply.status_code] += 1

            for reading in readings("known", 3):
                assert (await client.post("/v1/readings", json=reading)).status_code == 200
            await asyncio.gather(*(ask(kind, number) for number in range(60) for kind in got))
        await app.state.parts.store.close()  # type: ignore[attr-defined]
        return got

    with start_private_redis(tmp_path) as private, redis.Redis.from_url(private.url) as database:
        app = create_app(settings(redis_url=private.url))

        async def run() -> dict[str, Counter[int]]:
            async with app.router.lifespan_context(app):
                return await crowd(app)

        before = int(database.info("stats")["total_connections_received"])
        got = asyncio.run(run())
        opened = int(database.info("stats")["total_connections_received"]) - before
    assert got == {kind: Counter({200: 60}) for kind in got}
    assert opened <= IDLE_CONNECTIONS
