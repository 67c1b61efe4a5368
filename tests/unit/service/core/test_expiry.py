"""Streams that nobody uses are forgotten, by one process of all, and never one that sends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.core.expiry import Expiry
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import StoreUnavailable
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.settings import Settings
from gatewatch.service.storage.store import StateStore
from gatewatch.service.storage.unused_streams import UnusedStreams
from tests.support.samples import PATIENT_MS, post, readings
from tests.support.waiting import PATIENCE_S

DAYS = 30.0


class Days:
    """A clock that is set by hand, to a day."""

    def __init__(self) -> None:
        self.day = 20_000.0

    def unix_ms(self) -> int:
        return int(self.day * 86_400_000)

    def monotonic(self) -> float:
        return 0.0


class Sending(UnusedStreams):
    """Something happens between the look at streams and their end."""

    meanwhile: Callable[[], Any] = staticmethod(lambda: None)

    async def _expire(self, sets: Any, due: Any) -> list[str]:
        await asyncio.to_thread(self.meanwhile)
        return await super()._expire(sets, due)


@pytest.fixture
def clock() -> Days:
    return Days()


@pytest.fixture
def on(redis_url: str, tenant: str, clock: Days) -> Callable[..., Any]:
    """Have an Expiry do something."""

    def do(
        work: Callable[[Expiry], Awaitable[Any]], meanwhile: Callable[[], Any] = lambda: None, tell: Any = None
    ) -> Any:
        async def nobody(_: Any) -> None: ...

        async def whole() -> Any:
            store = StateStore(redis_url, tenant, PATIENT_MS)
            unused = Sending(store)
            unused.meanwhile = meanwhile
            try:
                return await work(Expiry(unused, lambda: store.keys.tenants, Metrics(), clock, DAYS, tell or nobody))
            finally:
                await store.close()

        return asyncio.run(whole())

    return do


def a_round(expiry: Expiry) -> Awaitable[int]:
    async def look() -> int:
        await expiry._unused.lease(expiry._me)
        return await expiry.round()

    return look()


@pytest.fixture
def alone(redis_url: str, tenant: str) -> Callable[[], None]:
    """Nobody has the lease."""

    def release() -> None:
        with redis.Redis.from_url(redis_url) as database:
            database.delete(*database.scan_iter("gatewatch:*:expiry") or ["none"])

    return release


def streams(client: TestClient) -> list[str]:
    found: list[str] = client.get("/v1/streams").json()["streams"]
    return found


def test_a_stream_that_has_not_moved_is_forgotten_and_one_that_has_stays(
    client: TestClient, on: Callable[..., Any], clock: Days, alone: Callable[[], None]
) -> None:
    many = [f"s-{at:03}" for at in range(300)]
    post(client, [{**readings("any", 1)[0], "stream": name} for name in (*many, "used", "kept")])
    client.post("/v1/streams/kept/snapshots", json={"name": "s"})
    assert on(a_round) == 0
    alone()
    clock.day += DAYS - 1
    assert on(a_round) == 0
    alone()
    post(client, readings("used", 2)[1:])
    clock.day += 2
    assert on(a_round) == 300
    assert streams(client) == ["kept", "used"]
    assert client.get("/v1/streams/s-001").status_code == 404
    assert client.get("/v1/streams/s-001/history").status_code == 404
    (again,) = post(client, [{**readings("any", 5)[4], "stream": "s-001"}])
    assert again["status"] == "warming_up"
    assert client.get("/v1/streams/s-001").json()["readings"] == 1
    assert streams(client) == ["kept", "s-001", "used"]


def test_a_stream_that_sends_at_that_moment_is_not_lost(
    client: TestClient, on: Callable[..., Any], clock: Days, alone: Callable[[], None]
) -> None:
    post(client, [*readings("sends", 10), *readings("silent", 10)])
    on(a_round)
    alone()
    clock.day += DAYS + 1
    assert on(a_round, lambda: post(client, readings("sends", 11)[10:])) == 1
    assert streams(client) == ["sends"]
    assert client.get("/v1/streams/sends").json()["readings"] == 11
    assert all(one["replayed"] for one in post(client, readings("sends", 10)))


def test_one_process_looks_and_another_after_its_lease(on: Callable[..., Any], alone: Callable[[], None]) -> None:
    async def lease(expiry: Expiry) -> bool:
        return await expiry._unused.lease(expiry._me)

    assert [on(lease), on(lease)] == [True, False]
    alone()
    assert on(lease)


def test_a_service_forgets_unused_streams_by_itself_and_counts_them(settings: Callable[..., Settings]) -> None:
    with TestClient(create_app(settings(stream_days=1 / 86_400))) as client:
        post(client, readings("pump", 3))
        deadline = time.monotonic() + PATIENCE_S
        while streams(client):
            assert time.monotonic() < deadline, "it is there still"
            time.sleep(0.05)
        assert "gatewatch_streams_expired_total 1.0" in client.get("/metrics").text


def test_who_could_not_be_told_that_streams_are_gone_is_told_again(
    client: TestClient, tenant: str, on: Callable[..., Any], clock: Days, alone: Callable[[], None]
) -> None:
    """So the pins of forks go once Redis takes the rules again."""
    post(client, readings("one", 1))
    tries: list[list[StreamKey]] = []

    async def tell(gone: list[StreamKey]) -> None:
        tries.append(list(gone))
        if len(tries) == 1:
            raise StoreUnavailable("away")

    async def twice(expiry: Expiry) -> None:
        for _ in range(2):
            await expiry._unused.lease(expiry._me)
            with contextlib.suppress(StoreUnavailable):
                await expiry.round()

    assert on(a_round) == 0
    alone()
    clock.day += DAYS
    on(twice, tell=tell)
    assert [[one.name for one in gone] for gone in tries] == [["one"]] * 2
