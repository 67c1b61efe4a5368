"""What is held, and what a person closed, where readings are scored anew: corrections, pasts, rollbacks, shadows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from redis import Redis
from starlette.testclient import TestClient

from gatewatch.models.artefact.repository import Repository
from gatewatch.models.detectors.canary import verify as by_canary
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.app import create_app
from gatewatch.service.incidents.incident import decode, encode
from gatewatch.service.serving.shadow import Shadows
from gatewatch.service.settings import Settings
from tests.api.test_hold import close, hold, incidents, lose_record, open_in
from tests.api.test_shadow import PUMPS, SHADOW, compared
from tests.support.samples import CHANNELS, make_artefact, post, readings
from tests.support.scorer import state_key

CALM = 100
STRANGE, STRANGER = dict.fromkeys(CHANNELS, 40.0), dict.fromkeys(CHANNELS, -400.0)

Sent = list[dict[str, Any]]


@pytest.fixture(params=["trained", "general"])
def client(request: pytest.FixtureRequest, settings: Callable[..., Settings]) -> Iterator[TestClient]:
    with TestClient(create_app(settings(**({"model": "general"} if request.param == "general" else {})))) as client:
        yield client


def sent_with(strange: range, count: int = CALM + 100, stream: str = "held") -> Sent:
    sent = readings(stream, count, seed=5)
    for one in sent[strange.start : strange.stop]:
        one["values"] = STRANGE
    return sent


def of(stream: str, sent: Sent) -> Sent:
    return [{**one, "stream": stream} for one in sent]


def scores(results: Sent) -> list[Any]:
    return [(one["score"], one["status"]) for one in results]


def in_window(client: TestClient, *streams: str) -> None:
    for stream in streams:
        client.put(f"/v1/streams/{stream}", json={"reorder_window_s": 5000}).raise_for_status()


def test_an_incident_that_begins_with_a_late_reading_is_held_as_one_that_began_in_time(client: TestClient) -> None:
    """The stream then stands where it would had it seen all in order: what follows is scored alike."""
    hold(client, "*")
    in_window(client, "late", "sorted")
    sent = sent_with(range(CALM, CALM + 1))
    post(client, of("late", sent[:CALM]))
    post(client, of("late", sent[CALM + 1 : CALM + 20]))
    assert not open_in(client)
    (late,) = post(client, of("late", sent[CALM : CALM + 1]))
    assert (late["status"], late["corrected"]) == ("anomalous", True)
    post(client, of("sorted", sent[: CALM + 20]))
    assert sorted(open_in(client)) == ["late", "sorted"]
    again = sent_with(range(CALM + 60, CALM + 90))[CALM + 20 :]
    assert scores(post(client, of("late", again))) == scores(post(client, of("sorted", again)))
    assert sorted(open_in(client)) == ["late", "sorted"]  # a hundred calm readings ago


def test_what_was_too_short_lets_go_alike_however_the_readings_came(client: TestClient) -> None:
    hold(client, "*", minimum={"readings": 5})
    sent = readings("held", CALM + 60, seed=5)
    for at in (CALM, CALM + 1, *range(CALM + 40, CALM + 43)):
        sent[at]["values"] = STRANGE
    alone = [result for one in sent for result in post(client, [one])]
    for stream, part in (("fives", 5), ("twenties", 20)):
        together = [r for at in range(0, len(sent), part) for r in post(client, of(stream, sent[at : at + part]))]
        assert scores(together) == scores(alone)


def test_what_a_person_closed_stays_closed_whatever_comes_late(client: TestClient) -> None:
    """Strange readings from before the close open nothing; those after it are another incident, held or not."""
    hold(client, "held")
    sent, late = sent_with(range(CALM, CALM + 3)), [CALM + 1, CALM + 6]
    for stream in ("held", "free"):
        in_window(client, stream)
        post(client, of(stream, [one for at, one in enumerate(sent[: CALM + 20]) if at not in late]))
        (first,) = incidents(client, stream)
        close(client, first["id"])
        post(client, of(stream, [sent[late[0]]]))
        post(client, of(stream, sent[CALM + 20 : CALM + 24]))
        post(client, of(stream, [sent[late[1]]]))
        assert [one["state"] for one in incidents(client, stream)] == ["ended"], stream
        assert "gatewatch_open_anomalies 0.0" in client.get("/metrics").text, stream
        post(client, [{**one, "stream": stream, "values": STRANGER} for one in sent[CALM + 24 : CALM + 26]])
        assert [one["state"] for one in incidents(client, stream)] == ["open", "ended"], stream
        close(client, incidents(client, stream)[0]["id"])


def test_what_comes_late_from_after_a_close_is_another_incident(client: TestClient) -> None:
    """Told as such, however soon after the first one it began."""
    hold(client, "held")
    sent, late = sent_with(range(CALM, CALM + 2)), CALM + 22
    for stream in ("held", "free"):
        in_window(client, stream)
        post(client, of(stream, sent[: CALM + 20]))
        close(client, incidents(client, stream)[0]["id"])
        post(client, of(stream, [one for at, one in enumerate(sent[: CALM + 30]) if CALM + 20 <= at != late]))
        post(client, [{**sent[late], "stream": stream, "values": STRANGER}])
        latest, first = incidents(client, stream)
        assert (latest["state"], latest["id"], first["state"]) == ("open", f"{late}.{stream}", "ended"), stream
        close(client, latest["id"])


TRAINED, GENERAL = (pytest.mark.parametrize("client", [kind], indirect=True) for kind in ("trained", "general"))


@TRAINED
def test_a_state_that_was_lost_after_a_close_is_rebuilt_closed(client: TestClient, redis_url: str, tenant: str) -> None:
    """What is strange then is told, as another incident."""
    sent = sent_with(range(CALM, CALM + 2))
    post(client, sent[: CALM + 20])
    close(client, incidents(client)[0]["id"])
    asyncio.run(lose_record(redis_url, tenant))
    post(client, sent[CALM + 20 : CALM + 22])
    assert [one["state"] for one in incidents(client)] == ["ended"]
    assert "gatewatch_open_anomalies 0.0" in client.get("/metrics").text
    post(client, [{**one, "values": STRANGER} for one in sent[CALM + 22 : CALM + 24]])
    assert [one["state"] for one in incidents(client)] == ["open", "ended"]


@GENERAL
def test_readings_of_the_past_hold_nothing_and_teach_as_ever(client: TestClient) -> None:
    hold(client, "held")
    sent = sent_with(range(CALM, CALM + 3))
    for stream in ("held", "free"):
        past = [{name: value for name, value in one.items() if name != "stream"} for one in sent[: CALM + 50]]
        done = client.post(f"/v1/streams/{stream}/warm-up", json=past).json()
        assert done["taken"] == CALM + 50, done
    assert not client.get("/v1/incidents").json()["incidents"]
    assert scores(post(client, of("held", sent[CALM + 50 :]))) == scores(post(client, of("free", sent[CALM + 50 :])))


def test_a_state_from_before_a_close_is_gone_back_to_as_closed(client: TestClient) -> None:
    for held in (True, False):
        stream = "held" if held else "free"
        hold(client)
        sent = of(stream, sent_with(range(CALM, CALM + 2)))
        post(client, sent[: CALM + 10])
        client.post(f"/v1/streams/{stream}/snapshots", json={"name": "amid"}).raise_for_status()
        post(client, sent[CALM + 10 : CALM + 12])
        close(client, incidents(client, stream)[0]["id"])
        client.post(f"/v1/streams/{stream}/snapshots/amid/rollback").raise_for_status()
        assert [one["state"] for one in incidents(client, stream)] == ["ended"]
        assert "gatewatch_open_anomalies 0.0" in client.get("/metrics").text
        post(client, sent[CALM + 10 : CALM + 20])
        assert [one["state"] for one in incidents(client, stream)] == ["ended"]
        post(client, [{**one, "values": STRANGER} for one in sent[CALM + 20 : CALM + 23]])
        assert [one["state"] for one in incidents(client, stream)] == ["open", "ended"]
        close(client, incidents(client, stream)[0]["id"])


@TRAINED
def test_a_state_from_within_a_hold_that_goes_on_is_held_still(client: TestClient) -> None:
    hold(client)
    sent = sent_with(range(CALM, CALM + 3))
    post(client, sent[: CALM + 20])
    client.post("/v1/streams/held/snapshots", json={"name": "amid"}).raise_for_status()
    post(client, sent[CALM + 20 : CALM + 40])
    client.post("/v1/streams/held/snapshots/amid/rollback").raise_for_status()
    post(client, sent[CALM + 20 : CALM + 80])
    assert [one["state"] for one in incidents(client)] == ["open"]


@TRAINED
def test_a_fork_of_a_stream_that_is_held_learns(client: TestClient) -> None:
    """Its incident is the first stream's; nobody could ever close it here."""
    hold(client, "*")
    sent = sent_with(range(CALM, CALM + 3))
    post(client, sent[: CALM + 20])
    client.post("/v1/streams/held/fork", params={"to": "fork"}).raise_for_status()
    post(client, of("fork", sent[CALM + 20 : CALM + 40]))
    assert open_in(client) == ["held"]
    post(client, of("fork", sent_with(range(CALM + 40, CALM + 43))[CALM + 40 : CALM + 43]))
    assert sorted(open_in(client)) == ["fork", "held"]


@TRAINED
def test_closing_ends_the_incident_that_is_named_though_it_is_not_the_latest(
    client: TestClient, redis_url: str, tenant: str
) -> None:
    """As a version before left one open behind another."""
    sent = sent_with(range(CALM, CALM + 2))
    post(client, sent[: CALM + 20])
    (first,) = incidents(client)
    close(client, first["id"])
    post(client, [{**one, "values": STRANGE} for one in sent[CALM + 20 : CALM + 22]])
    latest, first = incidents(client)
    n = first["id"].partition(".")[0]
    with Redis.from_url(redis_url) as store:
        key = state_key(tenant, "held", "incidents")
        kept = decode(store.hget(key, n))
        assert kept is not None
        store.hset(key, n, encode(msgspec.structs.replace(kept, end_ms=None, closed=False)))
    assert [one["state"] for one in incidents(client)] == ["open", "open"]
    said = close(client, first["id"])
    assert (said["id"], said["state"], said["closed"]["by"]) == (first["id"], "ended", "ann")
    assert [one["state"] for one in incidents(client)] == ["open", "ended"]
    post(client, [{**one, "values": STRANGE} for one in sent[CALM + 22 : CALM + 24]])
    assert incidents(client)[0]["anomalous"] == latest["anomalous"] + 2


def test_a_shadow_follows_what_is_held_and_holds_open_what_it_found_itself(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """The first reading teaches it, as it teaches the model that answers; the others do not."""
    repository, detectors = Repository(str(tmp_path / "models"), by_canary), []
    for at, threshold in enumerate((4.0, 12.0)):
        folder = make_artefact(tmp_path / str(at), seed=1, event_threshold=threshold, level_threshold=threshold)
        repository.add("pumps", folder, "ann")
        detectors.append(TrainedDetector.load(folder))
    repository.promote("pumps", "1", "ann")
    sent = {name: readings(name, 80, seed=5) for name in ("pump-both", "pump-one")}
    for name, value in (("pump-both", 200.0), ("pump-one", 10.0)):
        sent[name][60]["values"] = dict.fromkeys(CHANNELS, value)
    with TestClient(create_app(settings(models=repository.url))) as client:
        client.put("/v1/rules", json=PUMPS).raise_for_status()
        hold(client, "pump-*")
        client.put(SHADOW, json={"version": 2, "share": 1}).raise_for_status()
        results = {name: post(client, of_stream) for name, of_stream in sent.items()}
        compared(client, sum(one["status"] != "warming_up" for of in results.values() for one in of))
        app: Any = client.app
        (shadows,) = [one for one in app.state.parts.ingest._batcher._scorer.watchers if isinstance(one, Shadows)]
        states: dict[str, Any] = {key.name: one.state for key, one in shadows._runs["pumps"].streams.items()}
    assert {one["status"] for of in results.values() for one in of[60:61]} == {"anomalous"}
    expected, shadow = detectors[1].initial(1), detectors[1]
    for at, one in enumerate(sent["pump-both"]):
        before, values = expected.copy(), np.array([list(one["values"].values())], np.float64)
        shadow.advance(values, np.array([round(1000 * one["timestamp"])]), expected)
        expected = shadow.held(before, expected) if at > 60 else expected
    assert states["pump-both"].tobytes() == expected.tobytes()
    assert [bool(shadow.is_open(states[name])[0]) for name in sent] == [True, False]
