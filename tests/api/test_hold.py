"""Hold: an incident goes on until a person closes it, and what lasts meanwhile is not taken for normal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from starlette.testclient import TestClient

from gatewatch.models.artefact.files import load_artefact, model_folder
from gatewatch.service.app import create_app
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.proofs import file
from gatewatch.service.proofs.verifying import verify
from gatewatch.service.settings import Settings
from gatewatch.service.storage.store import StateStore
from tests.support.cli import gatewatch
from tests.support.samples import CHANNELS, PATIENT_MS, START_MS, post
from tests.support.whole_path import serving

CALM, OFF = 300, {"trained": 12.0, "general": 30.0}


@pytest.fixture(params=["trained", "general"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def app(kind: str, settings: Callable[..., Settings], artefact: Path) -> Callable[[], TestClient]:
    own = settings(model="general" if kind == "general" else str(artefact), incident_days=10_000)
    return lambda: TestClient(create_app(own))


@pytest.fixture
def client(app: Callable[[], TestClient]) -> Iterator[TestClient]:
    with app() as client:
        yield client


class Sender:
    """Streams with the same values, and a level that changes when asked to."""

    def __init__(self, off: float, *streams: str) -> None:
        self._rng, self._off, self._streams, self.at = np.random.default_rng(5), off, streams, 0

    def go(self, client: TestClient, count: int, moved: bool = False, size: int = 100) -> list[dict[str, Any]]:
        """Send readings of each stream, in requests of `size`; the results of the first."""
        results = []
        for start in range(0, count, size):
            values = self._rng.normal(3, 1, (min(size, count - start), len(CHANNELS))) + moved * self._off
            sent = [
                {"stream": stream, "timestamp": START_MS / 1000 + 60 * at, "seq": at}
                | {"values": dict(zip(CHANNELS, row.tolist(), strict=True))}
                for stream in self._streams
                for at, row in enumerate(values, self.at)
            ]
            results += post(client, sent)[: len(values)]
            self.at += len(values)
        return results


def hold(client: TestClient, pattern: str = "held", **more: Any) -> None:
    reply = client.put("/v1/policies", json={"policies": [{"pattern": pattern, "hold": True, **more}]})
    assert reply.status_code == 200, reply.text


def incidents(client: TestClient, stream: str = "held") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/v1/incidents", params={"stream": stream}).json()["incidents"]
    return found


def open_in(client: TestClient) -> list[str]:
    """The streams that have an open incident."""
    return [one["stream"] for one in client.get("/v1/incidents", params={"state": "open"}).json()["incidents"]]


def strange(results: list[dict[str, Any]]) -> float:
    return float(np.mean([one["score"] > 1 for one in results]))


def close(client: TestClient, incident: str, by: str = "ann") -> dict[str, Any]:
    reply = client.post(f"/v1/incidents/{incident}/close", json={"by": by})
    assert reply.status_code == 200, reply.text
    said: dict[str, Any] = reply.json()
    return said


def test_what_is_held_is_not_taken_for_normal_and_what_is_not_held_is(client: TestClient, kind: str) -> None:
    hold(client)
    sender = Sender(OFF[kind], "held", "free")
    sender.go(client, CALM)
    sender.go(client, 6000, moved=True, size=1000)
    assert strange(sender.go(client, 100, moved=True)) > 0.9
    (one,) = incidents(client)
    assert (one["state"], one["closed"]) == ("open", None)
    assert incidents(client, "free")[0]["state"] == "ended"  # it was learned


def test_it_stays_open_when_all_is_normal_again_and_a_closed_one_stays_closed(client: TestClient, kind: str) -> None:
    hold(client)
    sender = Sender(OFF[kind], "held")
    sender.go(client, CALM)
    sender.go(client, 40, moved=True)
    sender.go(client, 400)
    (one,) = incidents(client)
    assert one["state"] == "open"
    assert open_in(client) == ["held"]
    said = close(client, one["id"])
    assert (said["state"], said["closed"]["by"]) == ("ended", "ann")
    assert close(client, one["id"], by="bob")["closed"]["by"] == "ann"
    assert not open_in(client)
    sender.go(client, 100)
    assert [one["state"] for one in incidents(client)] == ["ended"]


def test_what_is_still_strange_after_closing_is_another_incident_and_held_as_well(
    client: TestClient, kind: str
) -> None:
    hold(client)
    sender = Sender(OFF[kind], "held")
    sender.go(client, CALM)
    sender.go(client, 60, moved=True)
    (one,) = incidents(client)
    close(client, one["id"])
    sender.go(client, 60, moved=True)
    sender.go(client, 100)
    assert [one["state"] for one in incidents(client)] == ["open", "ended"]


async def lose_record(redis_url: str, tenant: str) -> None:
    store = StateStore(redis_url, tenant, PATIENT_MS)
    try:
        assert await store.ask([b"DEL", store.keys[StreamKey(tenant, "held")].record]) == [1]
    finally:
        await store.close()


def test_a_restart_and_a_rebuilt_state_hold_on(
    app: Callable[[], TestClient], kind: str, redis_url: str, tenant: str
) -> None:
    sender = Sender(OFF[kind], "held")
    with app() as client:
        hold(client)
        sender.go(client, CALM)
        assert strange(sender.go(client, 20, moved=True)) > 0.9
    with app() as client:
        assert strange(sender.go(client, 20, moved=True)) > 0.9
        sender.go(client, 20)
    asyncio.run(lose_record(redis_url, tenant))
    with app() as client:
        sender.go(client, 40)
        assert [one["state"] for one in incidents(client)] == ["open"]
        assert strange(sender.go(client, 20, moved=True)) > 0.9


@pytest.mark.parametrize("kind", ["general"], indirect=True)
def test_a_state_of_a_history_that_was_all_held_is_warming_up_until_a_person_closes_it(
    app: Callable[[], TestClient], redis_url: str, tenant: str
) -> None:
    """Nobody is told that all is normal: nothing is known of what was."""
    sender = Sender(OFF["general"], "held")
    with app() as client:
        hold(client)
        sender.go(client, CALM)
        sender.go(client, 300, moved=True)
    asyncio.run(lose_record(redis_url, tenant))
    with app() as client:
        assert {one["status"] for one in sender.go(client, 200, moved=True)} == {"warming_up"}
        (one,) = incidents(client)
        assert one["state"] == "open"
        assert client.get("/v1/streams/held").json()["status"] == "warming_up"
        close(client, one["id"])
        sender.go(client, CALM)
        assert strange(sender.go(client, 20, moved=True)) > 0.9
        assert [one["state"] for one in incidents(client)] == ["open", "ended"]


@pytest.mark.parametrize("size", [1, 170])
def test_how_readings_came_makes_no_difference_and_the_verdicts_are_proved(
    client: TestClient, kind: str, artefact: Path, tmp_path: Path, size: int
) -> None:
    hold(client)
    sender = Sender(OFF[kind], "held")
    sender.go(client, CALM)
    sender.go(client, 30, moved=True, size=size)
    sender.go(client, 140, size=size)
    (one,) = incidents(client)
    assert one["state"] == "open"
    path = tmp_path / "proof"
    file.write(path, client.get(f"/v1/incidents/{one['id']}/proof").json(), None)
    model = load_artefact(artefact if kind == "trained" else model_folder("general"))
    verdict = verify(file.read(path), model)
    assert (verdict.to_the_bit, verdict.difference) == (True, None)


def test_what_a_gate_or_a_minimum_keeps_from_being_an_incident_holds_nothing(client: TestClient, kind: str) -> None:
    hold(client, minimum={"readings": 50}, gates=[{"direction": "above"}])
    sender = Sender(OFF[kind], "held")
    sender.go(client, CALM)
    sender.go(client, 10, moved=True)
    sender.go(client, 100)
    assert not incidents(client)
    assert not open_in(client)  # it was let go
    sender.go(client, 60, moved=True)
    sender.go(client, 100)
    assert [one["state"] for one in incidents(client)] == ["open"]


def test_without_the_policy_what_is_open_ends_as_ever(client: TestClient, kind: str) -> None:
    hold(client)
    sender = Sender(OFF[kind], "held")
    sender.go(client, CALM)
    sender.go(client, 10, moved=True)
    sender.go(client, 100)
    client.put("/v1/policies", json={"policies": []})
    sender.go(client, 100)
    assert [one["state"] for one in incidents(client)] == ["ended"]


def test_the_command_closes_it(tmp_path: Path) -> None:
    with serving(None, tmp_path) as (url, _), httpx2.Client(base_url=url) as client:
        client.put("/v1/policies", json={"policies": [{"pattern": "held", "hold": True}]})
        values = [3.0 + 0.1 * (at % 7) + 30.0 * (at >= CALM) for at in range(CALM + 10)]
        sent = [
            {"stream": "held", "timestamp": START_MS / 1000 + 60 * at, "values": value}
            for at, value in enumerate(values)
        ]
        assert client.post("/v1/readings", json=sent).status_code == 200
        (one,) = client.get("/v1/incidents").json()["incidents"]
        done = gatewatch("incidents", "close", one["id"], "--by", "ann", "--url", url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{one['id']}: ended, closed by ann"
