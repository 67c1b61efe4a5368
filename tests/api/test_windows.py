"""Maintenance windows over HTTP: nobody is told under them, or nothing is learned; by name, pattern and tag."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.settings import Settings
from tests.api.test_gates import CALM, COUNT, FAULT, faults, incidents, series
from tests.support.samples import START_MS, post, readings
from tests.support.scorer import state_key

START = datetime.fromtimestamp(START_MS / 1000, UTC)


def between(first: int, last: int, **more: Any) -> dict[str, Any]:
    """A window from one of the readings up to another."""
    times = [(START + timedelta(minutes=at)).isoformat() for at in (first, last)]
    return {"start": times[0], "end": times[1], **more}


def have(client: TestClient, name: str, window: dict[str, Any]) -> dict[str, Any]:
    reply = client.put(f"/v1/windows/{name}", json=window)
    assert reply.status_code == 200, reply.text
    windows: dict[str, Any] = reply.json()["windows"]
    return windows


def test_under_a_window_an_incident_is_kept_with_its_name_and_nobody_is_told(client: TestClient) -> None:
    have(client, "pump-work", between(CALM - 1, COUNT, stream="pump*", skip="judging", text="new seals"))
    plain, pump = post(client, faults("plain")), post(client, faults("pump"))
    for one, other in zip(plain, pump, strict=True):
        assert {**other, "stream": "plain", "gate": None} == {**one, "gate": None}
    assert {one.get("gate") for one in pump[CALM - 1 :]} == {"window"}
    assert not any("gate" in one for one in (*plain, *pump[: CALM - 1]))
    (one,) = incidents(client, stream="pump")
    assert (one["told"], one["untold"], one["window"], one["alerts"]) == (False, "window", "pump-work", [])
    assert incidents(client, stream="plain")[0]["told"]
    assert series(client, "gatewatch_open_anomalies ") == {"gatewatch_open_anomalies": 0}
    alerts = series(client, "gatewatch_alerts_total")
    assert sum(alerts.values()) == 1
    gate = 'gatewatch_gated_total{gate="window"}'
    assert series(client, gate) == {gate: COUNT - CALM + 1}


def test_what_still_goes_on_when_a_window_ends_is_told_then(client: TestClient) -> None:
    have(client, "work", between(CALM - 1, CALM + 3))
    sent = readings("pump", CALM + FAULT)
    for one in sent[CALM:]:
        one["values"]["pressure"] = 900.0
    answers = post(client, sent)
    (one,) = incidents(client)
    assert (one["start"], one["told"], one["window"]) == (answers[CALM]["timestamp"], True, "work")
    assert [alert["timestamp"] for alert in one["alerts"]] == [answers[CALM + 3]["timestamp"]]
    assert series(client, "gatewatch_open_anomalies ") == {"gatewatch_open_anomalies": 1}


def test_under_a_window_the_model_learns_nothing_also_when_its_state_is_rebuilt(
    settings: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    sent = readings("pump", 110)
    window = between(80, 100, stream="pump", skip="learning")
    with TestClient(create_app(settings())) as one:
        have(one, "work", window)
        worked = post(one, sent)
        silent = post(one, [{**reading, "stream": "silent"} for reading in (*sent[:80], *sent[100:])])
        assert [one_["score"] for one_ in worked[100:]] == [one_["score"] for one_ in silent[80:]]
        assert not any("gate" in one_ for one_ in worked)
        assert series(one, "gatewatch_unlearned_total") == {"gatewatch_unlearned_total": 20}
        one.delete("/v1/windows/work").raise_for_status()
        known = one.get("/v1/streams/pump").json()
        assert (known["readings"], known["last_seq"]) == (110, 109)
        more = post(one, readings("pump", 3, seed=5, start=110))
    with Redis.from_url(redis_url) as database:  # and again, with a state that is rebuilt before those
        database.delete(state_key(tenant, "pump"))
    with TestClient(create_app(settings())) as other:
        again = post(other, readings("pump", 3, seed=5, start=110))
        assert [one_["replayed"] for one_ in again] == [True] * 3
        assert [one_["score"] for one_ in again] == [one_["score"] for one_ in more]
        late = post(other, readings("pump", 2, seed=6, start=113))
        fresh = post(other, [{**reading, "stream": "twin"} for reading in (*sent[:80], *sent[100:])])
        assert fresh[-1]["score"] == worked[-1]["score"]
        twin = post(other, [{**reading, "stream": "twin"} for reading in readings("pump", 3, seed=5, start=110)])
        assert [one_["score"] for one_ in twin] == [one_["score"] for one_ in more]
        twin = post(other, [{**reading, "stream": "twin"} for reading in readings("pump", 2, seed=6, start=113)])
        assert [one_["score"] for one_ in twin] == [one_["score"] for one_ in late]


def test_windows_are_by_tag_shown_on_the_stream_and_counted(client: TestClient) -> None:
    client.put("/v1/policies", json={"policies": [{"pattern": "a*", "tags": {"line": "3"}}]})
    post(client, [*readings("a1", 1), *readings("b1", 1)])
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    going_on = {"start": (now - hour).isoformat(), "end": (now + hour).isoformat(), "tags": {"line": "3"}}
    windows = have(client, "line-3", going_on)
    have(client, "over", {**going_on, "start": (now - 2 * hour).isoformat(), "end": (now - hour).isoformat()})
    assert windows["line-3"]["active"]
    assert client.get("/v1/streams/a1").json()["windows"] == ["line-3"]
    assert "windows" not in client.get("/v1/streams/b1").json()
    assert series(client, "gatewatch_windows_active") == {"gatewatch_windows_active": 1}
    assert [one["active"] for one in client.get("/v1/windows").json()["windows"].values()] == [True, False]
    client.put("/v1/policies", json={}).raise_for_status()
    assert list(client.get("/v1/windows").json()["windows"]) == [
        "line-3",
        "over",
    ]  # policies are replaced, windows stay
    assert client.delete("/v1/windows/line-3").json()["windows"].keys() == {"over"}
    assert client.delete("/v1/windows/line-3").status_code == 200


def test_windows_that_overlap_skip_what_either_does(client: TestClient) -> None:
    have(client, "b-learning", between(0, CALM + 1, skip="learning"))
    have(client, "a-judging", between(CALM - 1, COUNT, skip="judging"))
    post(client, faults("pump"))
    assert [one["window"] for one in incidents(client)] == ["a-judging"]
    assert series(client, "gatewatch_unlearned_total") == {"gatewatch_unlearned_total": CALM + 1}


@pytest.mark.parametrize(
    ("window", "told"),
    [
        ({"start": "2026-05-04T10:00:00Z", "end": "2026-05-04T10:00:00Z"}, "not after its start"),
        ({"start": "2026-05-04T10:00:00Z", "end": "2026-05-04T11:00:00+02:00"}, "not after its start"),
        ({"start": "2026-05-04T10:00:00Z"}, "expected start and end"),
        ({"start": "2026-05-04T10:00:00", "end": "2026-05-04T11:00:00"}, "start"),
        ({"days": ["sat"], "hours": "22:00-06:00", "zone": "Europe/Atlantis"}, "no time zone"),
        ({"days": []}, "days"),
        ({"hours": "25:00-26:00"}, "hours"),
        ({"hours": "22:00-06:00", "skip": "all"}, "skip"),
        ({}, "expected start and end"),
    ],
)
def test_what_is_no_window_is_refused_by_name(client: TestClient, window: dict[str, Any], told: str) -> None:
    reply = client.put("/v1/windows/work", json=window)
    assert reply.status_code == 422
    assert told in reply.json()["detail"]
    assert client.get("/v1/windows").json()["windows"] == {}
