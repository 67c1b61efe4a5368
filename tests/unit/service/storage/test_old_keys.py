"""Streams under the keys of before there were buckets: moved once, by whoever meets them, with nothing lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.settings import Settings
from gatewatch.service.storage.database import Database
from gatewatch.service.storage.keys import encode
from gatewatch.service.storage.old_keys import STOP, sealed
from gatewatch.service.storage.store import StateStore
from tests.support.old_keys import old_key, put_back_keys
from tests.support.samples import PATIENT_MS, post, readings
from tests.support.scorer import state_key
from tests.support.takeover import known

CHOSEN = {"on_gap": "hold", "reorder_window_s": 300.0}


def written_before(make: Callable[..., Settings], url: str, tenant: str, sent: list[dict[str, Any]]) -> list[Any]:
    """Have the version before apply readings; returns the answers."""
    with TestClient(create_app(make())) as client:
        client.put("/v1/streams/s", json=CHOSEN)
        answers = post(client, sent)
    with redis.Redis.from_url(url) as database:
        put_back_keys(database, tenant)
    return answers


@pytest.mark.parametrize("mover", [True, False], ids=["by the task", "by whoever meets it"])
def test_a_stream_under_its_old_key_goes_on_under_the_new_one(
    settings: Callable[..., Settings], redis_url: str, tenant: str, monkeypatch: pytest.MonkeyPatch, mover: bool
) -> None:
    sent = readings("s", 60)
    sent[39]["values"] = {"pressure": 900.0, "flow": 3.0}
    first = written_before(settings, redis_url, tenant, sent[:40])
    if not mover:
        monkeypatch.setattr(Database, "_move_all", lambda _: asyncio.sleep(0))
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:
        assert client.get("/v1/streams").json() == {"streams": ["s"], "total": 1, "next": None}
        if mover:
            assert database.exists(state_key(tenant, "s"))
        assert known(client, "s") | {"readings": 40, "last_seq": 39} | CHOSEN == known(client, "s")
        assert "gatewatch_open_anomalies 1.0" in client.get("/metrics").text
        again = post(client, sent[20:45])
        assert [r["replayed"] for r in again] == [True] * 20 + [False] * 5
        assert [r["score"] for r in again[:20]] == [r["score"] for r in first[20:]]
        assert len(client.get("/v1/streams/s/history").json()) == 45
        assert client.get("/v1/streams").json()["total"] == 1
        assert database.get(old_key(tenant, "s")) == sealed(StreamKey(tenant, "s"))
        assert 0 < database.ttl(old_key(tenant, "s")) <= 24 * 3600
        assert not database.exists(old_key(tenant, "s", "readings"), old_key(tenant, "s", "settings"))


@pytest.mark.parametrize("known_there", [True, False], ids=["that it knew", "that it did not know"])
def test_a_process_of_the_version_before_writes_no_stream_that_was_moved(
    settings: Callable[..., Settings], redis_url: str, tenant: str, known_there: bool
) -> None:
    """It meets the seal where it looks for the record, as this version would under its own keys, and stops."""
    sent = readings("s", 20)
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:
        if known_there:
            post(client, sent[:10])
            database.rename(state_key(tenant, "s", "readings"), "elsewhere")
        seal = sealed(StreamKey(tenant, "s"))
        database.set(state_key(tenant, "s"), seal)
        reply = client.post("/v1/readings", json=sent)
        assert (reply.status_code, reply.json()["title"]) == (503, "Another model has taken over")
        assert f"takeover {STOP}" in reply.json()["detail"]
        assert client.get("/readyz").status_code == 503
        assert database.get(state_key(tenant, "s")) == seal


def test_a_new_stream_is_sealed_under_its_old_name_while_the_version_before_may_write(
    settings: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    written_before(settings, redis_url, tenant, readings("s", 1))
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:
        assert database.hget(f"gatewatch:{{{encode(tenant)}}}:takeover", "number") == b"%d" % STOP
        post(client, readings("new", 3))
        assert database.get(old_key(tenant, "new")) == sealed(StreamKey(tenant, "new"))
        assert known(client, "new")["readings"] == 3
        assert client.delete("/v1/streams/new").status_code == 204
        assert client.get("/v1/streams").json()["streams"] == ["s"]


def test_nothing_is_sealed_or_looked_for_where_no_version_was_before(
    settings: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:
        post(client, readings("new", 3))
        assert not database.exists(old_key(tenant, "new"))


def test_streams_that_come_back_under_their_old_keys_are_moved_again(
    settings: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    """Somebody restores a copy of before the upgrade, while this version runs."""
    sent = readings("s", 20)
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:
        post(client, sent[:10])
        put_back_keys(database, tenant)
        assert client.get("/readyz").status_code == 200
        assert [r["replayed"] for r in post(client, sent)] == [True] * 10 + [False] * 10


def test_an_alert_that_the_version_before_did_not_tell_is_moved(redis_url: str, tenant: str) -> None:
    old = f"gatewatch:{{{encode(tenant)}}}:"

    async def run() -> tuple[list[Any], list[bytes]]:
        store = StateStore(redis_url, tenant, PATIENT_MS)
        await store.know_buckets()
        while not (alerts := await store.untold()):  # noqa: ASYNC110 - Redis sends no event
            await asyncio.sleep(0.01)
        claimed = await store.claim(alerts)
        await store.told(claimed)
        assert await store.untold() == []
        await store.close()
        return alerts, claimed

    with redis.Redis.from_url(redis_url) as database:
        database.hset(old + "takeover", mapping={"number": 3, "model": "m", "service": "s"})
        database.zadd(old + "alerts", {"an alert": 12.5})
        assert asyncio.run(run()) == ([(b"an alert", 12.5)], [b"an alert"])
        assert not database.exists(old + "alerts")
