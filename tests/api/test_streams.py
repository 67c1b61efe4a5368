"""All streams: their list, their number, and their loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.core import standings
from gatewatch.service.http import routes
from gatewatch.service.intake.batcher import SECOND_BATCH_MIN
from gatewatch.service.settings import Settings
from gatewatch.service.storage.keys import Keys
from tests.api.test_incidents import fault
from tests.support.samples import post, readings
from tests.support.scorer import sets_of


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


def pages(client: TestClient, **asked: str | int) -> list[Any]:
    """The streams of all pages."""
    streams, after = list[Any](), ""
    while after is not None:
        page = client.get("/v1/streams", params={**asked, "after": after}).json()
        streams += page["streams"]
        after = page["next"]
    return streams


def test_streams_are_sorted_by_score_and_status_page_by_page(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standings, "CHUNK", 3)  # so that a search takes several
    with TestClient(create_app(settings())) as client:
        for name in ("broken", "worse"):
            post(client, [{**one, "stream": name} for one in fault(name)])
        post(client, [one for n in range(5) for one in readings(f"calm-{n}", 60)])
        post(client, first_of(["new-1", "new-2"]))
        client.put("/v1/streams/chosen", json={"on_gap": "hold"})  # has settings, and no reading yet
        known = pages(client, details="true")
        assert [one["stream"] for one in known] == sorted(one["stream"] for one in known)
        assert {one["status"] for one in known} == {"anomalous", "normal", "warming_up"}

        def by_score(one: dict[str, Any]) -> tuple[float, str]:
            return -1.0 if one["score"] is None else -one["score"], one["stream"]

        ranks = ("anomalous", "warming_up", "normal")
        scored = [one for one in known if one["readings"]]
        score = [one["stream"] for one in sorted(scored, key=by_score)] + ["chosen"]
        status = [
            one["stream"] for one in sorted(scored, key=lambda one: (ranks.index(one["status"]), *by_score(one)))
        ] + ["chosen"]
        for limit in (1, 4, 100):
            assert pages(client, sort="score", limit=limit) == score
            assert pages(client, sort="status", limit=limit) == status
            assert pages(client, sort="score", limit=limit, match="calm*") == [s for s in score if s[:4] == "calm"]
            for one in ranks:
                fitting = [found["stream"] for found in scored if found["status"] == one]
                assert pages(client, status=one, limit=limit) == fitting
                assert pages(client, sort="status", status=one, limit=limit) == [s for s in status if s in fitting]
        page = client.get("/v1/streams", params={"sort": "score", "details": "true", "limit": 1}).json()
        assert page["streams"][0]["stream"] == score[0]
        assert page["total"] == len(known)
        assert page["as_of"].startswith("20")
        behind = client.get("/v1/streams", params={"sort": "score", "after": score[2]}).json()["streams"]
        assert behind == score[3:]
        for none in ("nobody", "0:x:calm-1", ":::"):
            page = client.get("/v1/streams", params={"sort": "score", "after": none}).json()
            assert (page["streams"], page["next"]) == ([], None)
        post(client, first_of(["new-3"]))
        monkeypatch.setattr(standings.Standings, "_table", standings.Standings._read)  # as if all were old
        assert "new-3" in pages(client, sort="score")
        monkeypatch.setattr(standings, "MOST", 3)
        assert "at most 3 are put in order" in client.get("/v1/streams?sort=score").json()["detail"]


def test_a_search_goes_on_behind_the_streams_that_were_looked_at(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standings, "CHUNK", 2)
    monkeypatch.setattr(routes, "LOOKED_AT", 4)
    post(client, first_of([f"p-{n}" for n in range(9)]))
    for sort in ("name", "score"):
        first = client.get("/v1/streams", params={"match": "*-8", "sort": sort}).json()
        assert (first["streams"], first["next"] is None) == ([], False)
        assert pages(client, match="*-8", sort=sort) == ["p-8"]


def test_streams_are_found_by_the_tags_of_their_policies(client: TestClient) -> None:
    post(client, first_of(["a-1", "a-2", "b-1"]))
    policies = [{"pattern": "*-1", "tags": {"site": "north"}}, {"pattern": "b-*", "tags": {"site": "south"}}]
    client.put("/v1/policies", json={"policies": policies}).raise_for_status()
    for sort in ("name", "score", "status"):
        assert sorted(pages(client, tag="site", sort=sort)) == ["a-1", "b-1"]
        assert pages(client, tag="site=north", sort=sort) == ["a-1"]
        assert pages(client, tag="site=west", sort=sort) == []
    assert client.get("/v1/streams?tag=9").status_code == 422


def test_a_stream_too_many_is_rejected_and_the_others_go_on(settings: Callable[..., Settings]) -> None:
    with TestClient(create_app(settings(streams=3))) as client:
        results = post(client, first_of(["a", "b", "c", "d", "e"]))
        assert [r["status"] for r in results] == ["warming_up"] * 3 + ["rejected"] * 2
        assert "the tenant has 3 already" in results[3]["error"]
        results = post(client, [*readings("c", 2)[1:], *first_of(["f"]), *readings("a", 3)[1:]])
        assert [r["status"] for r in results] == ["warming_up", "rejected", "warming_up", "warming_up"]
        assert client.put("/v1/streams/g", json={"on_gap": "hold"}).status_code == 400
        client.delete("/v1/streams/b")
        assert post(client, first_of(["f"]))[0]["status"] == "warming_up"
        assert client.get("/v1/streams").json()["streams"] == ["a", "c", "f"]


@pytest.mark.parametrize("many", [False, True], ids=["by a script", "by a transaction"])
def test_a_channel_too_many_of_all_streams_is_rejected_and_the_others_go_on(
    settings: Callable[..., Settings], redis_url: str, tenant: str, many: bool
) -> None:
    def reading(stream: str, seq: int, *channels: str) -> dict[str, object]:
        return {"stream": stream, "seq": seq, "timestamp": 1.7e9 + seq, "values": dict.fromkeys(channels, 1.0)}

    others = [reading(f"o{at}", 0, "a") for at in range(40 if many else 0)]
    bound = 5 + len(others)
    with TestClient(create_app(settings(model="general", tenant_channels=bound))) as client:
        post(client, [*others, reading("pump", 0, "a", "b")])
        post(client, [*others, reading("fan", 0, "a", "b", "c")])
        for seq in (1, 2):
            grown, new, known = post(
                client, [reading("pump", seq, "a", "b", "z"), reading("new", 0, "a"), reading("fan", seq, "a")]
            )
            assert [one["status"] for one in (grown, new, known)] == ["rejected", "rejected", "warming_up"]
            assert f"the tenant's streams have {bound}" in grown["error"]
            assert "GATEWATCH_TENANT_CHANNELS" in new["error"]
        assert client.get("/v1/streams/pump").json()["channels"] == ["a", "b"]
        file = client.get("/v1/streams/pump/state").content
        refused = client.put("/v1/streams/copy/state", params={"as": "new"}, content=file)
        assert (refused.status_code, refused.json()["title"]) == (400, "Bad request")
        client.delete("/v1/streams/fan")
        assert post(client, [reading("pump", 3, "a", "b", "z")])[0]["status"] == "warming_up"
        assert client.get("/v1/streams/pump").json()["channels"] == ["a", "b", "z"]
        client.post("/v1/streams/pump/reset?what=state")
        assert client.put("/v1/streams/copy/state", params={"as": "new"}, content=file).status_code == 200
        assert client.put("/v1/streams/pump/state", content=file).status_code == 200
        assert post(client, [reading("new", 0, "a")])[0]["status"] == "warming_up"
        assert post(client, [reading("more", 0, "a")])[0]["status"] == "rejected"
    with redis.Redis.from_url(redis_url) as database:
        keys = Keys(tenant, 64)
        counts = database.mget([keys.channels(sets) for sets in keys.sets_of(tenant)])
    assert sum(int(count or 0) for count in counts) == bound


@pytest.mark.parametrize("most", [SECOND_BATCH_MIN + 10, 4 * SECOND_BATCH_MIN])
def test_two_batches_under_way_begin_no_stream_too_many_and_none_too_few(
    settings: Callable[..., Settings], most: int
) -> None:
    with TestClient(create_app(settings(streams=most, batch_readings=SECOND_BATCH_MIN))) as client:
        results = post(client, first_of([f"s{at}" for at in range(4 * SECOND_BATCH_MIN)]))
        assert [r["status"] for r in results].count("warming_up") == most
        assert client.get("/v1/streams").json()["total"] == most


def test_a_foreign_list_of_streams_is_named_and_costs_no_reading(
    settings: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    app = create_app(settings())
    with TestClient(app) as client, redis.Redis.from_url(redis_url) as database:
        post(client, readings("known", 3))
        key = sets_of(tenant, "known")[0]
        database.delete(key)
        database.lpush(key, "foreign")
        assert [r["replayed"] for r in post(client, [*readings("new", 2), *readings("known", 4)[3:]])] == [False] * 3
        refused = client.get("/v1/streams")
        assert (refused.status_code, refused.json()["title"]) == (503, "Foreign value in Redis")
        (warning,) = client.get("/readyz").json()["warnings"]
        for text in (refused.json()["detail"], warning):
            assert f"the key {key} in Redis holds a list" in text
            assert f"redis-cli RENAME '{key}' '{key}.foreign'" in text
            assert "WRONGTYPE" not in text
        assert "gatewatch_foreign_values_total 3.0" in client.get("/metrics").text
        database.rename(key, f"{key}.foreign")
        post(client, [*readings("new", 3)[2:], *readings("known", 5)[4:]])
        assert client.get("/v1/streams").json()["streams"] == ["known", "new"]
        assert "warnings" not in client.get("/readyz").json()


def test_a_foreign_epoch_or_set_of_open_anomalies_or_alerts_is_named_and_costs_no_reading(
    settings: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    app = create_app(settings())
    with TestClient(app) as client, redis.Redis.from_url(redis_url) as database:
        epoch, (_, opened, alerts, *_) = Keys(tenant, 1).epoch.decode(), sets_of(tenant, "opens")
        database.delete(epoch)
        database.lpush(epoch, "foreign")
        (warning,) = client.get("/readyz").json()["warnings"]
        assert f"the key {epoch} in Redis holds a list of somebody else's; expected a string" in warning
        database.delete(epoch)
        assert "warnings" not in client.get("/readyz").json()
        for key in (opened, alerts):
            database.set(key, "foreign")
        sent = readings("opens", 10)
        sent[-1]["values"] = {"pressure": 900.0, "flow": 3.0}
        assert post(client, sent)[-1]["status"] == "anomalous"
        (warning,) = client.get("/readyz").json()["warnings"]
        assert f"the key {opened} in Redis holds a string" in warning
        for key in (opened, alerts):
            database.delete(key)
        post(client, readings("opens", 11)[10:])
        assert "gatewatch_open_anomalies 1.0" in client.get("/metrics").text


def test_a_deleted_list_of_streams_is_mended_by_their_next_readings(
    settings: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    """Wholly or in part, by a hand; of few streams, which a script saves, and of many, which a transaction does."""
    many = [f"s{number:02d}" for number in range(40)]
    app = create_app(settings())
    with TestClient(app) as client, redis.Redis.from_url(redis_url) as database:
        keys = {stream: sets_of(tenant, stream)[0] for stream in many}

        def send(at: int, streams: list[str]) -> None:
            post(client, [{**readings("any", 1, start=at)[0], "stream": stream} for stream in streams])

        send(0, many)
        for at, batch in ((1, many), (3, many[:1])):
            database.delete(*keys.values())
            for step in range(2):  # remembered, and so few, from the second on
                send(at + step, batch)
            assert client.get("/v1/streams").json()["streams"] == batch
        send(5, many)
        database.zrem(keys[many[7]], many[7])
        send(6, many[7:8])
        assert client.get("/v1/streams").json()["streams"] == many


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
