"""Records that a process remembers, and what becomes of them when others change what Redis holds."""

from __future__ import annotations

from collections.abc import Callable

import redis
from starlette.testclient import TestClient

from service.app import create_app
from service.remembered import FEW, Remembered
from service.settings import Settings
from tests.conftest import post, readings
from tests.test_scoring import state_key


def test_a_remembered_stream_is_saved_without_being_loaded(settings: Callable[..., Settings], redis_url: str) -> None:
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:

        def loads() -> int:
            return int(database.info("commandstats").get("cmdstat_mget", {}).get("calls", 0))  # type: ignore[union-attr]

        sent = readings("known", 20)
        post(client, sent[:1])
        before = loads()
        for reading in sent[1:]:
            post(client, [reading])
        assert loads() == before
        undisturbed = post(client, [{**reading, "stream": "other"} for reading in sent])[-1]
        assert client.get("/v1/streams/known").json()["score"] == undisturbed["score"]


def test_a_stream_deleted_elsewhere_begins_anew_though_it_is_remembered(settings: Callable[..., Settings]) -> None:
    sent = readings("gone", 10)
    with TestClient(create_app(settings())) as a, TestClient(create_app(settings())) as b:
        first = [post(a, [reading])[0] for reading in sent]
        assert b.delete("/v1/streams/gone").status_code == 204
        assert [post(a, [reading])[0] for reading in sent] == first


def test_a_remembered_state_does_not_outlive_a_roll_back(
    settings: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    """The sender sees that readings are gone, and sends them again; one further on goes on from what is there."""
    sent = readings("back", 12)
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:
        keys = [state_key(tenant, "back", what) for what in ("state", "history")]
        post(client, sent[:6])
        old = database.mget(keys)
        post(client, sent[6:10])
        database.mset(dict(zip(keys, old, strict=True)))  # type: ignore[arg-type]
        again = [post(client, [reading])[0] for reading in sent[6:]]
        undisturbed = post(client, [{**reading, "stream": "other"} for reading in sent])
        assert [result["replayed"] for result in again] == [False] * 6
        assert [result["score"] for result in again] == [result["score"] for result in undisturbed[6:]]


def test_only_a_few_streams_and_bytes_are_remembered() -> None:
    remembered = Remembered(most_bytes=1000)
    names = [f"s{n}" for n in range(FEW)]
    remembered.note(names, [b"x" * 100] * FEW, [True] * FEW)
    assert remembered.of(names[-10:]) == [b"x" * 100] * 10
    assert remembered.of(names[-11:]) is None
    remembered.note(["new", "lost"], [b"y" * 100] * 2, [True, False])
    assert remembered.of(["new"]) == [b"y" * 100]
    assert remembered.of(["lost"]) is None
    assert remembered.of([names[-10]]) is None  # it gave way
    many = [f"m{n}" for n in range(FEW + 1)]
    remembered.note([*many, "new"], [b"z"] * (FEW + 2), [True] * (FEW + 2))
    assert remembered.of(["new"]) is None  # what was saved in a large batch is not what was remembered
    assert remembered.of(["m0"]) is None
