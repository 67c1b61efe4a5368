"""All streams: their list, their number, and their loss."""

from __future__ import annotations

from collections.abc import Callable

import redis
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.conftest import post, readings


def first_of(names: list[str]) -> list[dict[str, object]]:
    return [{**readings("any", 1)[0], "stream": name} for name in names]


def test_streams_are_listed_page_by_page_in_order(client: TestClient) -> None:
    names = [f"p-{n:03}" for n in range(25)]
    post(client, first_of(sorted(names, reverse=True)))
    found: list[str] = []
    after = ""
    while True:
        page = client.get("/v1/streams", params={"after": after, "limit": 10}).json()
        assert page["total"] == 25
        found += page["streams"]
        if page["next"] is None:
            break
        after = page["next"]
    assert found == names
    client.delete("/v1/streams/p-003")
    assert client.get("/v1/streams").json()["total"] == 24


def test_a_stream_too_many_is_rejected_and_the_others_go_on(settings: Callable[..., Settings]) -> None:
    with TestClient(create_app(settings(streams=3))) as client:
        results = post(client, first_of(["a", "b", "c", "d", "e"]))
        assert [r["status"] for r in results] == ["warming_up"] * 3 + ["rejected"] * 2
        assert "there are 3 already" in results[3]["error"]
        results = post(client, [*readings("c", 2)[1:], *first_of(["f"]), *readings("a", 3)[1:]])
        assert [r["status"] for r in results] == ["warming_up", "rejected", "warming_up", "warming_up"]
        assert client.put("/v1/streams/g", json={"on_gap": "hold"}).status_code == 400
        client.delete("/v1/streams/b")
        assert post(client, first_of(["f"]))[0]["status"] == "warming_up"
        assert client.get("/v1/streams").json()["streams"] == ["a", "c", "f"]


def test_an_emptied_redis_is_noticed(settings: Callable[..., Settings], redis_url: str, tenant: str) -> None:
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:
        post(client, readings("l", 5))
        assert "gatewatch_store_losses_total 0.0" in client.get("/metrics").text
        keys = list(database.scan_iter("*"))
        own = [key for key in keys if b":epoch" in key or b":state" in key or b":history" in key]
        database.delete(*own)
        assert client.get("/readyz").status_code == 200
        assert "gatewatch_store_losses_total 1.0" in client.get("/metrics").text
        assert post(client, readings("l", 6))[5]["status"] in ("normal", "warming_up")
        assert client.get("/v1/streams/l").json()["readings"] == 6
