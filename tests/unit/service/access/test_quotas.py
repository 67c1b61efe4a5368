"""A tenant sends as much as it may, over all processes together, and no other tenant notices."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from starlette.testclient import TestClient

from gatewatch.service.access.quotas import READY_S, Quota
from gatewatch.service.app import create_app
from gatewatch.service.errors import OverLimit
from gatewatch.service.settings import Settings
from gatewatch.service.storage.database import Database
from tests.support.access import add_to_file, bearer
from tests.support.samples import PATIENT_MS, readings
from tests.support.whole_path import serving


def taken(quotas: Quota, tenant: str, readings: int) -> int:
    try:
        quotas.take(tenant, readings)
    except OverLimit:
        return 0
    return readings


def test_processes_share_what_a_tenant_may_send(redis_url: str, tenant: str) -> None:
    """Each is a process of its own: they meet in Redis only."""
    rate, lasts_s = 1000.0, 3.0

    async def send() -> tuple[int, float]:
        databases = [Database(redis_url, tenant, PATIENT_MS) for _ in range(4)]
        processes = [Quota(database, "readings", rate) for database in databases]
        count, began = 0, time.monotonic()
        while time.monotonic() - began < lasts_s:
            count += sum(taken(quotas, tenant, 10) for quotas in processes)
            await asyncio.sleep(0.002)
        elapsed_s = time.monotonic() - began
        await asyncio.sleep(0.3)
        assert all(taken(quotas, f"{tenant}-other", 10) for quotas in processes)
        for quotas, database in zip(processes, databases, strict=True):
            quotas.stop()
            await database.close()
        return count, elapsed_s

    count, elapsed_s = asyncio.run(send())
    allowed = rate * (elapsed_s + READY_S)
    print(f"{count} readings in {elapsed_s:.2f} s; {allowed:.0f} are allowed")
    assert 0.7 * allowed < count < 1.3 * allowed  # four processes that do not share would take four times as many


def test_a_request_is_taken_whole_as_long_as_anything_is_left_and_says_how_long_to_wait(
    redis_url: str, tenant: str
) -> None:
    async def send() -> None:
        database = Database(redis_url, tenant, PATIENT_MS)
        quotas = Quota(database, "readings", 10)
        quotas.take(tenant, 320)  # 300 more than there are
        with pytest.raises(OverLimit) as refused:
            quotas.take(tenant, 1)
        assert 29 <= int(refused.value.headers["Retry-After"]) <= 31
        quotas.stop()
        await database.close()

    asyncio.run(send())


def test_without_a_limit_nothing_is_counted(redis_url: str, tenant: str) -> None:
    quotas = Quota(Database(redis_url, tenant, PATIENT_MS), "readings", None)
    for _ in range(1000):
        quotas.take(tenant, 10**9)


def test_a_tenant_at_its_limit_gets_429_and_says_so(settings: Callable[..., Settings], tmp_path: Path) -> None:
    with TestClient(create_app(settings(tenant_readings_per_s=1))) as client:
        sent = readings("s", 40)
        assert client.post("/v1/readings", json=sent).status_code == 200
        reply = client.post("/v1/readings", json=sent)
        assert reply.status_code == 429
        assert int(reply.headers["retry-after"]) > 30
        assert "GATEWATCH_TENANT_READINGS_PER_S" in reply.json()["detail"]
        assert client.get("/v1/streams/s").json()["readings"] == 40


def test_bytes_are_counted_as_they_are_read_whoever_hands_them_in(
    settings: Callable[..., Settings], artefact: Path, tmp_path: Path, redis_url: str, tenant: str
) -> None:
    """On the fast path and on the other, with gzip or without; and another tenant does not notice."""
    file = tmp_path / "keys.json"
    keys = [bearer(add_to_file(file, f"{tenant}-{name}", "ingest")) for name in ("fast", "gzip", "many", "other")]
    body = json.dumps(readings("s", 40)).encode()
    zipped = {"content-encoding": "gzip", "content-type": "application/json"}
    environment = {"GATEWATCH_REDIS_URL": redis_url, "GATEWATCH_KEYS_FILE": str(file), "GATEWATCH_OPEN": "never"}
    environment |= {"GATEWATCH_TENANT_BYTES_PER_S": str(len(body) / 20), "GATEWATCH_TENANT_POSTS_PER_S": "2"}
    with serving(artefact, tmp_path / "data", **environment) as (url, _):
        for more in ({}, {"content-encoding": "identity"}):  # on the fast path and on the other
            sent = [httpx2.post(f"{url}/v1/readings", json=[], headers=keys[2] | more) for _ in range(40)]
            refused = next(reply for reply in sent if reply.status_code == 429)
            assert "GATEWATCH_TENANT_POSTS_PER_S" in refused.json()["detail"]
        for key, content, more in ((keys[0], body, {}), (keys[1], gzip.compress(body), zipped)):
            assert httpx2.post(f"{url}/v1/readings", content=content, headers=key | more).status_code == 200
            for path in ("readings", "streams/s/readings"):
                refused = httpx2.post(f"{url}/v1/{path}", content=content, headers=key | more)
                assert refused.status_code == 429
                assert 15 <= int(refused.headers["retry-after"]) <= 20  # it had two seconds' worth, and sent twenty
                assert "GATEWATCH_TENANT_BYTES_PER_S" in refused.json()["detail"]
        assert httpx2.post(f"{url}/v1/readings", content=body, headers=keys[3]).status_code == 200
