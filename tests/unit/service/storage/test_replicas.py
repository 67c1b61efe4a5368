"""What somebody changed is acknowledged once as many replicas have it as are asked for, as a reading is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.errors import StoreUnavailable
from gatewatch.service.settings import Settings
from gatewatch.service.storage.cluster_store import store_of
from gatewatch.service.storage.documents import rules_of
from gatewatch.service.storage.private_redis import start_private_redis
from tests.support import access
from tests.support.asynchronous import asynchronous
from tests.support.samples import post, readings


def test_no_change_is_acknowledged_that_a_failover_would_lose(settings: Callable[..., Settings]) -> None:
    """A Redis without the replica that is asked for takes every change, and nobody is told that it is kept."""
    with TestClient(create_app(settings())) as client:
        post(client, readings("a", 3))
    with TestClient(create_app(settings(store_replicas=1, store_timeout_ms=1000))) as client:
        assert client.post("/v1/readings", json=readings("a", 4)).status_code == 503
        reply = client.put("/v1/streams/a", json={"on_gap": "hold"})
        assert (reply.status_code, "GATEWATCH_STORE_REPLICAS" in reply.json()["detail"]) == (503, True)
        assert client.delete("/v1/streams/a").status_code == 503


@asynchronous
async def test_no_rule_is(redis_url: str, tenant: str) -> None:
    for replicas in (0, 1):
        store = store_of(redis_url, tenant, 1000, replicas=replicas)
        try:
            if replicas:
                with pytest.raises(StoreUnavailable, match="GATEWATCH_STORE_REPLICAS"):
                    await rules_of(store).write(1, 2, b"{}")
            else:
                assert await rules_of(store).write(0, 1, b"{}")
        finally:
            await store.close()


def test_no_key_is_and_no_revocation(tmp_path: Path) -> None:
    """`make chaos` found a new key lost by a failover, and then a key that was revoked would be good again."""
    with start_private_redis(tmp_path) as private:
        key = access.add_to_redis(private.url, "default", "read")
        with pytest.raises(StoreUnavailable, match="GATEWATCH_STORE_REPLICAS"):
            access.add_to_redis(private.url, "default", "read", replicas=1)
        with pytest.raises(StoreUnavailable, match="GATEWATCH_STORE_REPLICAS"):
            access.revoke(private.url, key, replicas=1)
