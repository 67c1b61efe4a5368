"""The contract under faults, in short; `python -m tests.faults.load` is the long form."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
import uvloop
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.settings import Settings
from gatewatch.service.storage.private_redis import start_private_redis
from gatewatch.service.storage.store import StateStore
from tests.faults import load
from tests.support.samples import post, readings


def test_every_reading_is_applied_once_and_in_order_through_faults(artefact: Path) -> None:
    """Two services over one Redis, broken connections on all sides, Redis killed, readings sent twice at once."""
    ledger = asyncio.run(load.run(artefact, readings=1200, streams=8, seed=1, kills=True))
    assert ledger.wrong == []
    assert sum(ledger.faults.values()) >= 100  # a run without faults proves nothing
    assert ledger.kills >= 1
    assert ledger.answers["replayed"] > 0


def test_a_hung_redis_is_503_and_goes_on_where_it_was(settings: Callable[..., Settings], tmp_path: Path) -> None:
    with start_private_redis(tmp_path) as private, redis.Redis.from_url(private.url) as database:
        pid = int(database.info("server")["process_id"])
        sent = readings("hung", 30)
        with TestClient(create_app(settings(redis_url=private.url, store_timeout_ms=250))) as client:
            before = post(client, sent[:10])
            os.kill(pid, signal.SIGSTOP)
            try:
                reply = client.post("/v1/readings", json=sent[10:20])
                ready = client.get("/readyz")
                alive = client.get("/livez")
            finally:
                os.kill(pid, signal.SIGCONT)
            assert (reply.status_code, ready.status_code, alive.status_code) == (503, 503, 200)
            assert reply.headers["retry-after"] == "1"
            after = post(client, sent[10:])
            assert client.get("/readyz").status_code == 200
            undisturbed = post(client, [{**reading, "stream": "undisturbed"} for reading in sent])
    assert [r["score"] for r in before + after] == [r["score"] for r in undisturbed]


def test_who_waits_while_redis_hangs_is_refused_after_one_time_out(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """Three requests, one batch each, of which the second begins beside the first; the third never asks Redis."""
    with start_private_redis(tmp_path) as private, redis.Redis.from_url(private.url) as database:
        pid = int(database.info("server")["process_id"])
        app = create_app(settings(redis_url=private.url, store_timeout_ms=2000, batch_readings=1))
        with TestClient(app) as client:
            post(client, readings("s0", 1))
            os.kill(pid, signal.SIGSTOP)
            try:
                with ThreadPoolExecutor(3) as pool:
                    jobs = []
                    for number in range(3):
                        body = readings(f"s{number}", 1, start=1)
                        jobs.append(pool.submit(client.post, "/v1/readings", json=body))
                        time.sleep(0.2)
                    replies = [job.result() for job in jobs]
            finally:
                os.kill(pid, signal.SIGCONT)
            assert [(reply.status_code, reply.headers["retry-after"]) for reply in replies] == [(503, "1")] * 3
            assert 'gatewatch_store_errors_total{operation="score"} 2.0\n' in client.get("/metrics").text


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_stall_of_the_event_loop_is_no_failure_of_redis(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], redis_url: str, tenant: str
) -> None:
    """The answer came in time; that nobody looked for longer than the time-out is the loop's fault."""

    async def load_through_a_stall() -> list[bytes | None]:
        store = StateStore(redis_url, tenant, 100)
        async with store.begin([StreamKey(tenant, "a")]):
            pass  # connects
        asyncio.get_running_loop().call_later(0.01, time.sleep, 0.25)
        redis.Redis.from_url(redis_url).client_pause(50)
        try:
            async with store.begin([StreamKey(tenant, name) for name in "ab"]) as held:
                return list(held.packed)
        finally:
            await store.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(load_through_a_stall()) == [None, None]


def test_a_redis_that_may_evict_or_forget_is_not_ready(settings: Callable[..., Settings], tmp_path: Path) -> None:
    with start_private_redis(tmp_path) as private, redis.Redis.from_url(private.url) as database:
        with TestClient(create_app(settings(redis_url=private.url))) as client:
            assert client.get("/readyz").status_code == 200
            database.config_set("maxmemory", "100mb")
            database.config_set("maxmemory-policy", "allkeys-lru")
            evicting = client.get("/readyz")
            database.config_set("maxmemory-policy", "noeviction")
        with TestClient(create_app(settings(redis_url=private.url, durability="strict"))) as client:
            everysec = client.get("/readyz")
            database.config_set("appendfsync", "always")
            assert client.get("/readyz").status_code == 200
    assert evicting.status_code == 503
    assert "maxmemory-policy is allkeys-lru; expected noeviction" in evicting.json()["detail"]
    assert everysec.status_code == 503
    assert "appendfsync everysec; expected yes and always" in everysec.json()["detail"]


def test_a_full_redis_is_503_and_nothing_is_lost(settings: Callable[..., Settings], tmp_path: Path) -> None:
    with start_private_redis(tmp_path) as private, redis.Redis.from_url(private.url) as database:
        sent = readings("full", 20)
        with TestClient(create_app(settings(redis_url=private.url))) as client:
            post(client, sent[:10])
            database.config_set("maxmemory", "1")
            assert client.post("/v1/readings", json=sent[10:]).status_code == 503
            database.config_set("maxmemory", "0")
            assert all(not result["replayed"] for result in post(client, sent[10:]))
            assert client.get("/v1/streams/full").json()["readings"] == 20
            database.script_flush()
            (again,) = post(client, sent[-1:])
            assert again["replayed"]
