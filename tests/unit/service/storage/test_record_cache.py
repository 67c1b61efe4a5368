"""Records that a process remembers, and what becomes of them when others change what Redis holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.app import create_app
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.settings import Settings
from gatewatch.service.storage.record_cache import RecordCache
from gatewatch.service.storage.store import StateStore
from gatewatch.service.storage.unit_of_work import FEW
from tests.support.asynchronous import asynchronous
from tests.support.samples import post, readings
from tests.support.scorer import core_of, model_of, read, state_key, texts


def test_a_remembered_stream_is_saved_without_being_loaded(settings: Callable[..., Settings], redis_url: str) -> None:
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:

        def loads() -> int:
            return int(database.info("commandstats").get("cmdstat_mget", {}).get("calls", 0))

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


@pytest.mark.parametrize("company", [0, FEW])
def test_a_remembered_state_does_not_outlive_a_roll_back(
    settings: Callable[..., Settings], redis_url: str, tenant: str, company: int
) -> None:
    """The sender sees that readings are gone, and sends them again; one further on goes on from what is there."""
    sent = readings("back", 12)
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:

        def send(reading: dict[str, Any]) -> dict[str, Any]:
            others = [{**reading, "stream": f"s{n}"} for n in range(company)]
            return post(client, [*others, reading])[-1]

        keys = [state_key(tenant, "back", what) for what in ("state", "readings")]
        for reading in sent[:6]:
            send(reading)
        old = database.mget(keys)
        for reading in sent[6:10]:
            send(reading)
        database.mset(dict(zip(keys, old, strict=True)))
        again = [send(reading) for reading in sent[6:]]
        undisturbed = post(client, [{**reading, "stream": "other"} for reading in sent])
        assert [result["replayed"] for result in again] == [False] * 6
        assert [result["score"] for result in again] == [result["score"] for result in undisturbed[6:]]


def test_many_remembered_streams_go_on_from_what_another_service_wrote(settings: Callable[..., Settings]) -> None:
    names = [f"m{n}" for n in range(2 * FEW)]
    sent = [{**reading, "seq": None} for reading in readings("m0", 12)]
    with TestClient(create_app(settings())) as a, TestClient(create_app(settings())) as b:
        for at, reading in enumerate(sent):
            post(a, [{**reading, "stream": name} for name in names])
            post(b, [{**reading, "stream": names[at], "timestamp": reading["timestamp"] + 1}])
        known = [a.get(f"/v1/streams/{name}").json()["readings"] for name in names]
    assert known == [13] * 12 + [12] * (len(names) - 12)


def test_records_are_remembered_within_a_bound_on_their_bytes() -> None:
    cache = RecordCache[str](most_bytes=1000)
    names = [f"s{n}" for n in range(8)]
    cache.note(names, [b"x" * 100] * 8, [True] * 8)
    assert cache.of(names) == [b"x" * 100] * 8
    cache.note(["new", "lost", names[-1]], [b"y" * 100] * 3, [True, False, True])
    assert cache.of(["new", names[-1]]) == [b"y" * 100] * 2
    assert cache.of(["lost"]) is None
    cache.forget(names[:2])
    assert cache.of(names[1:3]) is None
    assert cache.of(names[2:4]) == [b"x" * 100] * 2
    cache.note([f"m{n}" for n in range(5)], [b"z" * 100] * 5, [True] * 5)
    assert cache.of(["new"]) is None  # there was no room for all
    assert cache.of(["m0", "m4"]) == [b"z" * 100] * 2
    cache.note([f"b{n}" for n in range(20)], [b"z" * 100] * 20, [True] * 20)
    assert cache.of([f"b{n}" for n in range(11)]) is None


def test_records_that_others_write_are_waited_for_until_they_are_left_alone() -> None:
    cache, names, others = RecordCache[str](most_bytes=1000), ["a", "b", "c", "d"], [b"x", b"x", b"x", b"other"]
    cache.note(names, [b"x"] * 4, [True] * 4)
    assert cache.of(names) is not None
    cache.learn(1.0)
    assert cache.of(names) is None
    for _ in range(100):
        cache.compare(["never seen", *names], [b"x"] * 5, together=True)
        cache.compare(names, others, together=False)
    assert cache.of(names) is None  # a quarter of them is wrong
    for _ in range(20):
        cache.compare(names, [b"x"] * 4, together=True)
    assert cache.of(names) == [b"x"] * 4


@asynchronous
async def test_two_replicas_that_get_each_others_streams_soon_do_no_batch_again_and_one_alone_guesses_again(
    detector: TrainedDetector, redis_url: str, tenant: str
) -> None:
    stores, metrics = [StateStore(redis_url, tenant, 2000) for _ in range(2)], [Metrics() for _ in range(2)]
    model = model_of(detector)
    cores = [core_of(model, store, 100, metrics=of) for store, of in zip(stores, metrics, strict=True)]
    streams = [readings(f"r{n}", 48) for n in range(FEW + 1)]
    keys = [key.record for key in stores[0].keys.of([StreamKey(tenant, f"r{n}") for n in range(FEW + 1)])]
    try:
        for at, sent in enumerate(zip(*streams, strict=True)):
            if at == 16:
                before = sum(map(loads, metrics))
            elif at == 24:
                assert sum(map(loads, metrics)) - before == 8
                assert stores[0].record_cache.of(keys) is None
            answers = await cores[at % 2 if at < 24 else 0].scorer.score_batch(read(model, tenant, *sent))
            assert {json.loads(one)["replayed"] for one in texts(answers)} == {False}
        assert stores[0].record_cache.of(keys) is not None
    finally:
        for store in stores:
            await store.close()


def loads(metrics: Metrics) -> int:
    """How often records were loaded for a batch."""
    text = metrics.exposition().decode()
    return int(float(text.partition('gatewatch_stage_seconds_count{stage="load"} ')[2].partition("\n")[0]))
