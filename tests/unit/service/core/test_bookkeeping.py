"""What a reading causes is told once, whoever dies and whichever answer is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.core import bookkeeping
from gatewatch.service.core.bookkeeping import Alert
from gatewatch.service.core.store import Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.settings import Settings
from gatewatch.service.storage.store import StateStore
from gatewatch.service.storage.unit_of_work import FEW
from tests.support.relay import Relay
from tests.support.samples import PATIENT_MS, post, readings
from tests.support.scorer import sets_of
from tests.support.waiting import PATIENCE_S

QUIET = 10
SHORT_MS = 300


def series(client: httpx2.Client, name: str, **labels: str) -> float:
    """The sum of a series."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def incident(stream: str, company: int) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Batches in which nothing happens, of a stream and so many others, and one with which an incident begins."""
    names = [stream, *(f"{stream}-{number}" for number in range(company))]
    batches = [[{**reading, "stream": name} for name in names] for reading in readings(stream, QUIET + 1)]
    batches[-1][0]["values"] = {"pressure": 900.0, "flow": 3.0}
    return batches[:-1], batches[-1]


@pytest.fixture
def relay(redis_url: str) -> Iterator[Relay]:
    with Relay(redis_url) as relay:
        yield relay


@pytest.mark.parametrize("company", [0, 2 * FEW])
@pytest.mark.parametrize("after", [False, True])
def test_a_connection_that_is_cut_in_the_middle_of_a_save_costs_no_error_and_counts_once(
    settings: Callable[..., Settings], relay: Relay, company: int, after: bool
) -> None:
    """Before Redis got it, or when it was saved and only the answer is lost; by a script and by a transaction."""
    quiet, begins = incident("cut", company)
    with TestClient(create_app(settings(redis_url=relay.url))) as client:
        for batch in quiet:
            post(client, batch)
        relay.lose, relay.after = b"EVALSHA" if not company else b"EXEC", after
        results = post(client, begins)
        assert relay.lose == b""
        assert results[0]["status"] == "anomalous"
        assert [result["replayed"] for result in results] == [after] * (company + 1)
        assert series(client, "gatewatch_alerts_total") == 1
        assert series(client, "gatewatch_readings_total", status="anomalous") == 1
        assert series(client, "gatewatch_readings_total") == (QUIET + 1) * (company + 1)
        assert series(client, "gatewatch_open_anomalies") == 1
        assert post(client, begins)[0]["replayed"]
        assert series(client, "gatewatch_alerts_total") == 1


@pytest.mark.parametrize("company", [0, 2 * FEW])
def test_what_was_saved_without_an_answer_in_time_is_told_with_the_repeat(
    settings: Callable[..., Settings], relay: Relay, company: int
) -> None:
    quiet, begins = incident("late", company)
    with TestClient(create_app(settings(redis_url=relay.url))) as client:
        for batch in quiet:
            post(client, batch)
    with TestClient(create_app(settings(redis_url=relay.url, store_timeout_ms=SHORT_MS))) as client:
        relay.lose, relay.hang = b"EXEC", True  # a process that remembers nothing takes a transaction
        assert client.post("/v1/readings", json=begins).status_code == 503
        assert series(client, "gatewatch_alerts_total") == 0
        reply = client.post("/v1/readings", json=begins)
        while reply.status_code == 503:  # on a busy machine
            reply = client.post("/v1/readings", json=begins)
        assert all(result["replayed"] for result in reply.json())
        assert series(client, "gatewatch_alerts_total") == 1
        assert series(client, "gatewatch_readings_total") == company + 1
        client.post("/v1/readings", json=begins)
        assert series(client, "gatewatch_alerts_total") == 1
        assert series(client, "gatewatch_readings_total") == company + 1


def test_the_alert_of_a_process_that_died_is_told_by_one_of_the_others(
    settings: Callable[..., Settings], redis_url: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bookkeeping, "LOOK_S", 0.02)
    monkeypatch.setattr(bookkeeping, "CLAIM_S", 0.1)
    alert = bookkeeping.msgspec.msgpack.encode(Alert("dead", 7, "event", 2.5))  # type: ignore[attr-defined]

    async def save_and_die() -> None:
        store = StateStore(redis_url, tenant, PATIENT_MS)
        await store.save(
            Writes(round(time.time(), 3), [StreamKey(tenant, "dead")], [b""], [b"GW" + bytes(50)], alerts=[(0, alert)])
        )
        await store.close()

    with TestClient(create_app(settings())) as a, TestClient(create_app(settings())) as b:
        asyncio.run(save_and_die())
        deadline = time.monotonic() + PATIENCE_S
        with redis.Redis.from_url(redis_url) as database:
            while database.zcard(sets_of(tenant, "dead")[2]):
                assert time.monotonic() < deadline
                time.sleep(0.02)
        assert sum(series(client, "gatewatch_alerts_total", reason="event") for client in (a, b)) == 1


def test_an_alert_that_was_told_is_taken_off_and_a_lost_race_saves_none(
    settings: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    quiet, begins = incident("told", 0)
    app = create_app(settings())
    with TestClient(app) as client:
        for batch in [*quiet, begins]:
            post(client, batch)
        assert series(client, "gatewatch_alerts_total") == 1
    with redis.Redis.from_url(redis_url) as database:
        _, opened, alerts, *_ = sets_of(tenant, "told")
        assert database.zcard(alerts) == 0

        async def lose() -> list[bool]:
            store = app.state.parts.store
            name = StreamKey(tenant, "told")
            late = Writes(0.0, [name], [bytes(29)], [b"GW" + bytes(50)], alerts=[(0, b"x")], closed={name})
            try:
                return list(await store.save(late))
            finally:
                await store.close()

        assert asyncio.run(lose()) == [False]
        assert (database.zcard(alerts), database.zcard(opened)) == (0, 1)


def test_an_incident_that_ends_after_a_pause_is_no_longer_counted(
    settings: Callable[..., Settings], relay: Relay
) -> None:
    """Idle connections were closed in between, and the one that carries the end is cut."""
    quiet, begins = incident("ends", 0)
    with TestClient(create_app(settings(redis_url=relay.url))) as client:
        for batch in [*quiet, begins]:
            post(client, batch)
        assert series(client, "gatewatch_open_anomalies") == 1
        for reading in readings("ends", 60, start=QUIET + 1):
            relay.cut()
            relay.lose = b"EVALSHA"
            post(client, [reading])
        assert series(client, "gatewatch_open_anomalies") == 0
