"""A tenant sends as much as it may, over all processes together, and no other tenant notices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from gatewatch.service.access.quotas import READY_S, Quotas
from gatewatch.service.app import create_app
from gatewatch.service.errors import OverLimit
from gatewatch.service.settings import Settings
from gatewatch.service.storage.database import Database
from tests.support.samples import PATIENT_MS, readings


def taken(quotas: Quotas, tenant: str, readings: int) -> int:
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
        processes = [Quotas(database, rate) for database in databases]
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
        quotas = Quotas(database, 10)
        quotas.take(tenant, 320)  # 300 more than there are
        with pytest.raises(OverLimit) as refused:
            quotas.take(tenant, 1)
        assert 29 <= int(refused.value.headers["Retry-After"]) <= 31
        quotas.stop()
        await database.close()

    asyncio.run(send())


def test_without_a_limit_nothing_is_counted(redis_url: str, tenant: str) -> None:
    quotas = Quotas(Database(redis_url, tenant, PATIENT_MS), None)
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
