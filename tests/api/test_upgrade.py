"""Streams that the version before record format 4 wrote are taken over: nothing lost, nothing applied twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from gatewatch.models.artefact.files import load_artefact, model_folder
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.app import create_app
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.settings import Settings
from gatewatch.service.storage.store import StateStore
from tests.support.format3 import put_back
from tests.support.samples import CHANNELS, make_artefact, post, readings
from tests.support.scorer import state_key
from tests.support.takeover import GENERAL, known

Make = Callable[..., Settings]
CHOSEN = {"on_gap": "hold", "reorder_window_s": 300.0}


def harm(record: bytes, damage: str) -> bytes:
    """A record of format 3, damaged."""
    at = {"a bit": 60, "the beginning": 1}.get(damage)
    if at is None:
        return record[:-9]
    return record[:at] + bytes([record[at] ^ 4]) + record[at + 1 :]


def written_before(make: Make, database: redis.Redis, tenant: str, sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Have the version before apply readings of a stream `s`; returns the answers."""
    with TestClient(create_app(make(**GENERAL))) as client:
        client.put("/v1/streams/s", json=CHOSEN)
        first = post(client, sent)
    put_back(database, tenant, "s", load_detector(model_folder("general"), CHANNELS))
    return first


@pytest.mark.parametrize("damage", ["none", "a bit", "the beginning", "cut", "gone", "foreign"])
def test_a_stream_of_the_version_before_goes_on_whatever_became_of_its_record(
    settings: Make, redis_url: str, tenant: str, damage: str
) -> None:
    sent = readings("s", 60)
    with redis.Redis.from_url(redis_url) as database:
        first = written_before(settings, database, tenant, sent[:40])
        key = state_key(tenant, "s")
        record = bytes(database.get(key) or b"")
        if damage in ("gone", "foreign"):
            database.delete(key)
        if damage == "foreign":
            database.lpush(key, "somebody else's")
        elif damage not in ("none", "gone"):
            database.set(key, harm(record, damage))
        with TestClient(create_app(settings(**GENERAL))) as client:
            assert known(client, "s") | {"readings": 40, "last_seq": 39} | CHOSEN == known(client, "s")
            again = post(client, sent[20:45])
            assert [r["replayed"] for r in again] == [True] * 20 + [False] * 5
            assert [r["score"] for r in again[:20]] == [r["score"] for r in first[20:]]
            assert known(client, "s") | {"readings": 45} | CHOSEN == known(client, "s")
            assert database.get(state_key(tenant, "s", "history")) is None
            assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize("count", [1, 127, 128, 300])
def test_an_upgrade_with_another_model_at_once_is_no_older_version_beside_this_one(
    settings: Make, redis_url: str, tenant: str, artefact: Path, tmp_path: Path, count: int
) -> None:
    sent = readings("s", count + 5)
    with redis.Redis.from_url(redis_url) as database:
        with TestClient(create_app(settings())) as client:
            client.put("/v1/streams/s", json=CHOSEN)
            post(client, sent[:count])
        put_back(database, tenant, "s", TrainedDetector(load_artefact(artefact)))
    other = str(make_artefact(tmp_path / "other", seed=1))
    with TestClient(create_app(settings(model=other, history_readings=32))) as client:
        kept = min(count, 10)
        again = post(client, sent[count - kept :])
        assert [r["replayed"] for r in again] == [True] * kept + [False] * 5
        assert known(client, "s") | {"readings": count + 5} | CHOSEN == known(client, "s")
        assert client.get("/readyz").status_code == 200


def test_an_older_version_that_still_writes_is_told_of_and_changes_no_setting(
    settings: Make, redis_url: str, tenant: str
) -> None:
    sent = readings("s", 60)
    with redis.Redis.from_url(redis_url) as database:
        written_before(settings, database, tenant, sent[:30])
        with TestClient(create_app(settings(**GENERAL))) as client:
            post(client, sent[30:40])
            ring = bytes(database.get(state_key(tenant, "s", "readings")) or b"")
            post(client, sent[40:45])
            put_back(database, tenant, "s", load_detector(model_folder("general"), CHANNELS))
            database.set(state_key(tenant, "s", "readings"), ring)
            results = post(client, sent[35:50])
            assert [r["replayed"] for r in results] == [True] * 10 + [False] * 5
            assert known(client, "s") | {"readings": 50} | CHOSEN == known(client, "s")
            assert client.get("/readyz").status_code == 503


def test_a_stream_that_another_process_converts_meanwhile_is_no_sign_of_an_older_version(
    settings: Make, redis_url: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = readings("s", 60)
    with redis.Redis.from_url(redis_url) as database:
        written_before(settings, database, tenant, sent[:30])
    with TestClient(create_app(settings(**GENERAL))) as one, TestClient(create_app(settings(**GENERAL))) as two:
        load, others = StateStore.load_histories, [sent[30:35]]

        async def load_late(store: StateStore, streams: Sequence[StreamKey]) -> list[bytes]:
            while others:
                await asyncio.to_thread(post, two, others.pop())
            return await load(store, streams)

        monkeypatch.setattr(StateStore, "load_histories", load_late)
        assert [r["replayed"] for r in post(one, sent[30:40])] == [True] * 5 + [False] * 5
        assert known(one, "s") | {"readings": 40} | CHOSEN == known(one, "s")
        assert one.get("/readyz").status_code == two.get("/readyz").status_code == 200
