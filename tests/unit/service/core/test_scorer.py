"""The core loop between processes, models and damage, on a real Redis."""

from __future__ import annotations

import asyncio
import json
import random
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import redis
from starlette.testclient import TestClient

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.general.detector import GeneralDetector, load_detector
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.app import create_app
from gatewatch.service.core import records
from gatewatch.service.core.build import Core
from gatewatch.service.core.readings import Part
from gatewatch.service.core.records import FORMAT
from gatewatch.service.core.store import Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import ModelFailed, StoreUnavailable
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.settings import Settings
from gatewatch.service.storage.keys import BUCKETS, Keys
from gatewatch.service.storage.private_redis import start_private_redis
from gatewatch.service.storage.store import StateStore
from tests.support.asynchronous import asynchronous
from tests.support.samples import make_artefact, post, readings
from tests.support.scorer import JSON, batcher_of, core_of, model_of, read, state_key, texts
from tests.support.states import without_shape


def test_two_services_in_turn_score_like_one(settings: Callable[..., Settings]) -> None:
    sent, undisturbed = readings("shared", 30), readings("alone", 30)
    with TestClient(create_app(settings())) as a, TestClient(create_app(settings())) as b:
        results = [post(a if n % 2 else b, [reading])[0] for n, reading in enumerate(sent)]
        expected = post(a, undisturbed)
        tags = [a.get(f"/v1/streams/{stream}").json()["tag"] for stream in ("shared", "alone")]
    assert [r["score"] for r in results] == [r["score"] for r in expected]
    assert tags[0] == tags[1]


def test_writers_at_once_apply_every_reading_exactly_once(
    detector: TrainedDetector, redis_url: str, tenant: str
) -> None:
    """Four scorers with connections of their own, every reading sent by two of them, in random order of arrival."""
    asyncio.run(_write_at_once(detector, redis_url, tenant))


async def _write_at_once(detector: TrainedDetector, redis_url: str, tenant: str) -> None:
    stores = [StateStore(redis_url, tenant, 2000) for _ in range(4)]
    model = model_of(detector)
    cores = [core_of(model, store, 100) for store in stores]
    accepted = [read(model, tenant, one) for one in readings("hot", 60)]
    order = random.Random(0)
    applied = 0

    async def send(core: Core, reading: list[Part]) -> None:
        nonlocal applied
        result = json.loads(texts(await core.scorer.score_batch(reading))[0])
        applied += result["status"] in ("warming_up", "normal", "anomalous") and not result["replayed"]

    for start in range(0, 60, 4):
        jobs = [(core, reading) for reading in accepted[start : start + 4] for core in order.sample(cores, 2)]
        order.shuffle(jobs)
        await asyncio.gather(*(send(core, reading) for core, reading in jobs))
    known = await cores[0].inspection.describe(StreamKey(tenant, "hot"))
    assert known is not None
    assert known["readings"] == applied
    history = await cores[0].inspection.recent(StreamKey(tenant, "hot"), JSON.encoder)
    seqs = [json.loads(entry.answer)["seq"] for entry in history]
    assert seqs == sorted(set(seqs))
    for store in stores:
        await store.close()


@pytest.mark.parametrize("damage", ["delete", "flip", "cut", "foreign"])
def test_a_lost_or_damaged_state_is_rebuilt_from_history_and_counted(
    settings: Callable[..., Settings], redis_url: str, tenant: str, damage: str
) -> None:
    sent = readings("d", 40)
    with TestClient(create_app(settings())) as client:
        post(client, sent[:30])
        before = client.get("/v1/streams/d").json()
        database, key = redis.Redis.from_url(redis_url), state_key(tenant, "d")
        packed = bytearray(cast(bytes, database.get(key)))
        packed[90] ^= 4
        if damage == "delete":
            database.delete(key)
        else:
            database.set(key, {"flip": bytes(packed), "cut": bytes(packed[:100]), "foreign": b"hello"}[damage])
        database.close()
        results = post(client, [sent[29], *sent[30:]])
        after = client.get("/v1/streams/d").json()
        counted = client.get("/metrics").text
        post(client, [{**reading, "stream": "whole"} for reading in sent])
        whole = client.get("/v1/streams/whole").json()
    assert results[0]["replayed"]
    assert before["readings"] == 30
    assert after["readings"] == 40
    assert after["tag"] == whole["tag"]
    assert after["score"] == pytest.approx(whole["score"], rel=1e-5)
    cause = "missing" if damage == "delete" else "corrupt"
    assert f'gatewatch_states_rebuilt_total{{cause="{cause}"}} 1.0' in counted


@pytest.mark.parametrize("foreign", ["another stream", "another tenant"])
def test_the_record_of_another_stream_is_rebuilt_from_history(
    settings: Callable[..., Settings], redis_url: str, tenant: str, foreign: str
) -> None:
    sent = readings("mine", 20)
    other_tenant, other = (f"{tenant}-2", "mine") if foreign == "another tenant" else (tenant, "other")
    with TestClient(create_app(settings())) as client, TestClient(create_app(settings(tenant=other_tenant))) as second:
        post(client, sent[:19])
        post(second, [{**reading, "stream": other} for reading in readings("any", 19, seed=1)])
        with redis.Redis.from_url(redis_url) as database:
            copied = database.get(state_key(other_tenant, other))
            assert isinstance(copied, bytes)
            database.set(state_key(tenant, "mine"), copied)
            (result,) = post(client, sent[19:])
            assert database.get(state_key(tenant, "mine", "quarantine")) == copied
        assert 'gatewatch_states_rebuilt_total{cause="corrupt"} 1.0' in client.get("/metrics").text
        *_, expected = post(client, [{**reading, "stream": "undisturbed"} for reading in sent])
        tags = [client.get(f"/v1/streams/{stream}").json()["tag"] for stream in ("mine", "undisturbed")]
    assert result["score"] == pytest.approx(expected["score"], rel=1e-5)
    assert tags[0] == tags[1]


def connections(database: redis.Redis) -> set[str]:
    """Of the server; each has a number of its own."""
    return {one["id"] for one in database.client_list()}


@pytest.mark.parametrize("model", ["trained", "general"])
@pytest.mark.parametrize("history", ["this format", "a later one"])
def test_a_record_of_a_later_format_goes_on_by_its_history_or_is_left_to_that_version(
    settings: Callable[..., Settings], redis_url: str, tenant: str, history: str, model: str
) -> None:
    if model == "general":
        settings = partial(settings, model="general")
    sent, key, stream = readings("later", 22), state_key(tenant, "later"), StreamKey(tenant, "later")
    seed = Keys(tenant, BUCKETS)[stream].seed
    with redis.Redis.from_url(redis_url) as database:
        with TestClient(create_app(settings())) as client:
            post(client, sent[:20])
            packed = cast(bytes, database.get(key))
            body = packed[:2] + (FORMAT + 1).to_bytes(2, "little") + packed[4:-4] + b"what it has more"
            database.set(key, later := body + zlib.crc32(body, seed).to_bytes(4, "little"))
            if history == "a later one":
                ring = state_key(tenant, "later", "readings")
                database.set(ring, bytes(255 - byte for byte in cast(bytes, database.get(ring))))
        with TestClient(create_app(settings())) as client:
            answer = client.post("/v1/readings", json=[sent[20]])
            connected = connections(database)
            other, *own = post(client, [*readings("neighbour", 1), *sent[20:]])
            assert connected <= connections(database)  # none was dropped
            assert other["status"] == "warming_up"
            if history == "a later one":
                assert (answer.status_code, answer.json()["title"]) == (503, "Written by a later version")
                assert [(one["status"], one["seq"]) for one in own] == [("rejected", one["seq"]) for one in sent[20:]]
                assert "a later version of this service wrote stream later" in own[0]["error"]
                assert 'gatewatch_readings_total{status="rejected"} 2.0' in client.get("/metrics").text
                assert database.get(key) == later
                assert client.get("/v1/streams/later").status_code == 503
                return
            post(client, [{**reading, "stream": "alone"} for reading in sent])
            found = [client.get(f"/v1/streams/{name}").json() for name in ("later", "alone")]
    assert answer.json()[0]["status"] in ("normal", "warming_up")
    assert [(one["readings"], one["tag"]) for one in found] == [(22, found[0]["tag"])] * 2


def test_a_record_that_a_version_before_shape_wrote_goes_on_with_all_that_it_has(
    settings: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    settings = partial(settings, model="general", history_readings=32)
    sent, key, seed = readings("s", 90), state_key(tenant, "s"), Keys(tenant, BUCKETS)[StreamKey(tenant, "s")].seed
    with TestClient(create_app(settings())) as client:
        post(client, sent[:80])
    with redis.Redis.from_url(redis_url) as database:
        part = records.stream_part(packed := cast(bytes, database.get(key)), seed)
        assert part is not None
        layout, model_part = part[1:]
        detector = load_detector(model_folder("general"), layout.model)
        assert isinstance(detector, GeneralDetector)
        state_at = len(model_part) - detector.state_dtype.itemsize
        old = without_shape(detector, np.frombuffer(model_part, detector.state_dtype, 1, state_at)).tobytes()
        header = packed[:8] + (state_at + len(old)).to_bytes(4, "little") + packed[12 : records.STREAM_PART.itemsize]
        body = header + model_part[:state_at] + old + packed[records.STREAM_PART.itemsize + len(model_part) : -4]
        database.set(key, body + zlib.crc32(body, seed).to_bytes(4, "little"))
    with TestClient(create_app(settings())) as client:
        results = post(client, sent[80:])
        always = post(client, [{**one, "stream": "always"} for one in sent])[80:]
        known = [client.get(f"/v1/streams/{name}").json() for name in ("s", "always")]
    assert [one["score"] for one in results] == [one["score"] for one in always]
    assert known[0]["tag"] == known[1]["tag"]


def test_a_list_in_place_of_a_record_gives_way_however_it_is_saved(redis_url: str, tenant: str) -> None:
    async def run() -> tuple[list[bool], bytes | None]:
        store, (f, g) = StateStore(redis_url, tenant, 2000), (StreamKey(tenant, name) for name in "fg")
        saved = await store.save(Writes(0.0, [f, g], [b"", b""], [b"first" + bytes(60), b"other"]))
        packed = (await store.load([f]))[0]
        await store.close()
        return saved, packed

    with redis.Redis.from_url(redis_url) as database:
        database.lpush(state_key(tenant, "f"), "foreign")
    assert asyncio.run(run()) == ([True, True], b"first" + bytes(60))


def test_another_model_takes_over_without_a_fresh_warm_up(settings: Callable[..., Settings], tmp_path: Path) -> None:
    sent = readings("t", 40)
    with TestClient(create_app(settings())) as old:
        post(old, sent[:30])
    other = str(make_artefact(tmp_path / "other", seed=1))
    with TestClient(create_app(settings(model=other))) as new:
        results = post(new, sent[30:])
        post(new, [{**reading, "stream": "always"} for reading in sent])
        always = new.get("/v1/streams/always/history").json()[30:]
    assert {r["status"] for r in results} <= {"normal", "anomalous"}
    assert [r["score"] for r in results] == pytest.approx([entry["result"]["score"] for entry in always], rel=1e-5)


def test_a_stream_outlives_a_model_with_its_channels_in_another_order(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    sent = readings("x", 12)
    with TestClient(create_app(settings())) as client:
        first = post(client, sent[:10])
        tag = client.get("/v1/streams/x").json()["tag"]
    swapped = str(make_artefact(tmp_path / "swapped", channels=("flow", "pressure")))
    with TestClient(create_app(settings(model=swapped))) as client:
        assert client.get("/v1/streams/x").json()["tag"] == tag
        assert post(client, sent[5:10]) == [{**result, "replayed": True} for result in first[5:10]]
        (result,) = post(client, sent[10:11])
        assert (result["status"], result["replayed"]) == ("normal", False)
        known = client.get("/v1/streams/x").json()
        assert known["readings"] == 11
        assert len(client.get("/v1/streams/x/history").json()) == 11
        post(client, [{**reading, "stream": "always"} for reading in sent[:11]])
        assert client.get("/v1/streams/always").json()["tag"] == known["tag"]


def test_a_record_stays_within_two_kibibytes() -> None:
    """2 x 64 units, 8 channels, ring of 32 results: what is promised per stream in Redis."""
    from gatewatch.models.detectors.trained.score import state_fields
    from gatewatch.service.core import records as state

    detector_state = [("last_ms", "<i8"), ("readings", "<u4"), ("calm", "<u2"), *state_fields(8)]
    detector_state += [("h", "<f4", (2, 64)), ("c", "<f4", (2, 64))]
    import numpy as np

    assert state.state_dtype(np.dtype(detector_state), 8).itemsize <= 2048


def test_a_store_error_leaves_the_stream_as_it_was(detector: TrainedDetector, redis_url: str, tenant: str) -> None:
    """A save that another process overtook is refused by the fence, whatever the caller believes."""

    async def run() -> tuple[list[bool], bytes | None]:
        store, (f, g) = StateStore(redis_url, tenant, 2000), (StreamKey(tenant, name) for name in "fg")
        await store.save(Writes(0.0, [f], [b""], [b"first" + bytes(60)]))
        saved = await store.save(Writes(0.0, [f, g], [b"", b""], [b"second", b"other"]))
        packed = (await store.load([f]))[0]
        await store.close()
        return saved, packed

    saved, packed = asyncio.run(run())
    assert saved == [False, True]
    assert packed == b"first" + bytes(60)


@pytest.mark.parametrize(("before", "after"), [(128, 40), (40, 128)])
def test_another_length_of_history_costs_no_state(settings: Callable[..., Settings], before: int, after: int) -> None:
    sent = readings("w", 160)
    with TestClient(create_app(settings(history_readings=before))) as client:
        results = post(client, sent[:100])
    with TestClient(create_app(settings(history_readings=after))) as client:
        results += post(client, sent[100:])
        assert len(client.get("/v1/streams/w/history").json()) == min(after, before + 60)
        undisturbed = post(client, [{**reading, "stream": "undisturbed"} for reading in sent])
        tags = [client.get(f"/v1/streams/{stream}").json()["tag"] for stream in ("w", "undisturbed")]
    assert [r["score"] for r in results] == [r["score"] for r in undisturbed]
    assert tags[0] == tags[1]


def test_a_foreign_value_under_a_key_costs_no_neighbour_anything(
    settings: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    names = ("aa", "mm", "zz")
    sent = [{**reading, "stream": name} for reading in readings("any", 3) for name in names]
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:
        post(client, sent[:3])
        database.delete(state_key(tenant, "aa", "readings"))
        database.lpush(state_key(tenant, "aa", "readings"), "foreign")
        results = post(client, sent[3:6])
        again = post(client, sent[3:6])
        assert {r["status"] for r in results} == {"warming_up"}
        assert again == [{**r, "replayed": True} for r in results]
        assert {r["status"] for r in post(client, sent[6:])} == {"warming_up"}
        assert [len(client.get(f"/v1/streams/{name}/history").json()) for name in names] == [2, 3, 3]


def test_looking_at_a_stream_rebuilds_nothing(settings: Callable[..., Settings], tmp_path: Path) -> None:
    with TestClient(create_app(settings())) as client:
        post(client, readings("look", 20))
    other = str(make_artefact(tmp_path / "other", seed=1))
    with TestClient(create_app(settings(model=other))) as client:
        for _ in range(3):
            client.get("/v1/streams/look")
        assert 'gatewatch_states_rebuilt_total{cause="model"} 0.0' in client.get("/metrics").text
        post(client, readings("look", 1, start=20))
        assert 'gatewatch_states_rebuilt_total{cause="model"} 1.0' in client.get("/metrics").text


@asynchronous
async def test_a_stream_that_has_readings_for_several_models_in_a_batch_keeps_their_order(
    detector: TrainedDetector, redis_url: str, tenant: str
) -> None:
    """As where its rule changed between requests; other streams' models are scored beside each other."""
    store = StateStore(redis_url, tenant, 2000)
    models = [model_of(detector) for _ in range(12)]
    core = core_of(models[0], store, 100)
    moved = [read(model, tenant, one) for model, one in zip(models, readings("moved", 12), strict=True)]
    apart = [read(model, tenant, *readings(f"apart-{at}", 2)) for at, model in enumerate(models)]
    try:
        for parts in (moved, apart):
            batch = [one for part in parts for one in part]
            answers = [json.loads(one) for one in texts(await core.scorer.score_batch(batch))]
            assert {one["status"] for one in answers} <= {"warming_up", "normal"}
            assert [one["replayed"] for one in answers] == [False] * len(answers)
            streams = [name for one in batch for name in one.readings.streams]
            assert [one["stream"] for one in answers] == [stream.name for stream in streams]
        described = await core.inspection.describe(StreamKey(tenant, "moved"))
        assert described is not None
        assert described["readings"] == 12
    finally:
        await store.close()


class Failing(TrainedDetector):
    """A model whose network runs out of memory, say."""

    def advance(self, *_: Any) -> Any:
        raise RuntimeError("the network failed")


@asynchronous
async def test_a_model_that_fails_fails_its_own_streams_and_no_others(
    artefact: Path, detector: TrainedDetector, redis_url: str, tenant: str
) -> None:
    """In one batch; and the store is not taken to be away."""
    store, metrics = StateStore(redis_url, tenant, 2000), Metrics()
    model, failing = model_of(detector), model_of(Failing.load(artefact))
    core = core_of(model, store, 100, metrics=metrics)
    batcher = batcher_of(core.scorer, metrics=metrics)
    sent = [(model, "a"), (failing, "b"), (model, "c"), (failing, "d")]
    requests = [parts[0].readings for of, name in sent for parts in [read(of, tenant, *readings(name, 3))]]
    try:
        waiting = [batcher.take(request, JSON.encoder) for request in requests]
        batcher.start()
        a, b, c, d = await asyncio.gather(*waiting, return_exceptions=True)
        again = await batcher.take(read(model, tenant, *readings("c", 3))[0].readings, JSON.encoder)
        await batcher.stop()
    finally:
        await store.close()
    for answers in (a, c, again):
        assert [json.loads(one)["status"] for one in cast("list[str]", answers)] == ["warming_up"] * 3
    for error in (b, d):
        assert isinstance(error, ModelFailed)
        assert f"model {failing.name} failed" in str(error)
    assert b'gatewatch_store_errors_total{operation="score"} 0.0' in metrics.exposition()


@asynchronous
async def test_a_store_that_goes_away_fails_the_whole_batch_and_is_no_answer(
    detector: TrainedDetector, tmp_path: Path, tenant: str
) -> None:
    model, other = model_of(detector), model_of(detector)
    with start_private_redis(tmp_path) as private:
        store = StateStore(private.url, tenant, 2000)
        core = core_of(model, store, 100)
        await core.scorer.score_batch(read(model, tenant, *readings("a", 1)))
    try:
        with pytest.raises(StoreUnavailable):
            await core.scorer.score_batch(read(model, tenant, *readings("a", 2)))
        with pytest.raises(StoreUnavailable):
            await core.scorer.score_batch(
                [*read(model, tenant, *readings("a", 2)), *read(other, tenant, *readings("b", 1))]
            )
    finally:
        await store.close()
