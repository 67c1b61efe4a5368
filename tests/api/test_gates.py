"""Gates, minimum duration, merging and cooling-off as policies: through the service, one by one and at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from gatewatch.service.app import create_app
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.policies.policies import StreamPolicies
from gatewatch.service.settings import Settings
from tests.support.cli import gatewatch
from tests.support.samples import post, readings
from tests.support.whole_path import serving

CALM, FAULT = 60, 5
COUNT = CALM + FAULT + 60
RULES: tuple[dict[str, Any], ...] = (
    {"gates": [{"channel": "pressure", "direction": "below"}]},
    {"gates": [{"channel": "pressure", "direction": "above"}]},
    {"gates": [{"channel": "flow", "low": -1000}, {"channel": "pressure", "high": 500, "direction": "below"}]},
    {"minimum": {"readings": 3}},
    {"minimum": {"seconds": 1e6}},
    {"merge": {"readings": 40}},
    {"merge": {"readings": 2}, "cool_off": {"readings": 20}},
    {"gates": [{"absolute": 1e6, "low": -2000}], "minimum": {"readings": 2}, "cool_off": {"seconds": 60}},
)


def faults(stream: str) -> list[dict[str, Any]]:
    """A stream's readings, with two faults: above, and soon after below what is expected."""
    sent = readings(stream, COUNT)
    for one in sent[CALM : CALM + FAULT]:
        one["values"]["pressure"] = 900.0
    for one in sent[CALM + 20 : CALM + 20 + FAULT]:
        one["values"]["pressure"] = -900.0
    return sent


def ask_of(client: TestClient, stream: str, policy: dict[str, Any]) -> None:
    client.put(f"/v1/streams/{stream}/policy", json=policy).raise_for_status()


def incidents(client: TestClient, **search: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/v1/incidents", params=search).json()["incidents"]
    return found


def nameless(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: one[name] for name in one if name not in ("id", "stream")} for one in found]


def series(client: TestClient, name: str) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
    return {key: float(value) for key, value in lines}


@pytest.mark.parametrize("policy", RULES)
def test_one_by_one_at_once_through_two_processes_and_again_come_to_the_same(
    settings: Callable[..., Settings], policy: dict[str, Any]
) -> None:
    own = settings(incident_write_s=0.0)  # what is open is compared as well
    with TestClient(create_app(own)) as one, TestClient(create_app(own)) as other:
        for stream in ("at-once", "apart", "in-turn"):
            ask_of(one, stream, policy)
        asyncio.run(other.app.state.parts.policies.newest(other.app.state.parts.store.tenant))  # type: ignore[attr-defined]
        answers = post(one, faults("at-once"))
        for reading in faults("apart"):
            post(one, [reading])
        for at, reading in enumerate(faults("in-turn")):
            post((one, other)[at % 2], [reading])
        found = incidents(one, stream="at-once")
        assert nameless(found) == nameless(incidents(one, stream="apart")) == nameless(incidents(one, stream="in-turn"))
        again = post(other, faults("at-once")[-100:])
        assert [one_ | {"replayed": False} for one_ in again] == answers[-100:]
        assert incidents(other, stream="at-once") == found
        is_open = [one_ for one_ in found if one_["state"] == "open" and one_["told"]]
        assert series(one, "gatewatch_open_anomalies ") == {"gatewatch_open_anomalies": 3 * bool(is_open)}


def test_a_gate_leaves_score_and_status_and_says_that_it_closed(client: TestClient) -> None:
    plain = post(client, faults("plain"))
    ask_of(client, "gated", {"gates": [{"direction": "below"}]})
    with capture_logs() as logged:
        gated = post(client, faults("gated"))
    for one, other in zip(plain, gated, strict=True):
        assert {**other, "stream": "plain", "gate": None} == {**one, "gate": None}
    assert {at for at, one in enumerate(gated) if one.get("gate") == "direction"} >= {*range(CALM, CALM + FAULT)}
    (incident,) = incidents(client, stream="gated")
    # after the first fault values are below what is expected by then
    assert incident["start"] == gated[CALM + FAULT]["timestamp"]
    assert incident["channels"][0]["direction"] == "below"
    opened = [line for line in logged if line["event"] == "anomaly opened"]
    assert [(line["at"], line["direction"]) for line in opened] == [(incident["start"], "below")]
    assert series(client, 'gatewatch_gated_total{gate="direction"}')['gatewatch_gated_total{gate="direction"}'] >= FAULT
    kept = client.get("/v1/streams/gated/history").json()
    assert [one["result"].get("gate") for one in kept] == [one.get("gate") for one in gated[-len(kept) :]]


def test_a_limit_is_an_incident_whatever_the_score(client: TestClient) -> None:
    sent = readings("pump", COUNT)
    ask_of(client, "pump", {"gates": [{"channel": "flow", "high": sent[2]["values"]["flow"] - 1e-9}]})
    answers = post(client, sent[:3])
    assert (answers[2]["gate"], answers[2]["status"], answers[2]["reason"]) == ("limit", "warming_up", None)
    (one,) = incidents(client, reason="limit")
    assert (one["reason"], one["channels"][0]["channel"], one["channels"][0]["direction"]) == ("limit", "flow", "above")
    assert one["alerts"][-1]["reason"] == "limit"
    assert series(client, "gatewatch_open_anomaly_score")


def test_a_fault_too_short_is_nobodys_and_one_that_lasts_begins_late(client: TestClient) -> None:
    ask_of(client, "pump", {"minimum": {"readings": FAULT + 3}, "merge": {"readings": 5}})
    post(client, faults("pump"))
    assert incidents(client) == []
    assert client.get("/v1/incidents/63.pump").status_code == 404
    ask_of(client, "long", {"minimum": {"readings": FAULT}})
    answers = post(client, faults("long")[: CALM + FAULT])
    (one,) = incidents(client)
    assert one["start"] == answers[CALM + FAULT - 1]["timestamp"]
    assert one["onset"] <= answers[CALM]["timestamp"]
    assert one["id"] == f"{CALM + FAULT - 1}.long"


def test_the_gauge_goes_by_incidents_and_by_the_detector_once_nothing_is_asked(client: TestClient) -> None:
    gauge = "gatewatch_open_anomalies"
    ask_of(client, "pump", {"gates": [{"direction": "below"}]})
    sent = faults("pump")
    post(client, sent[: CALM + 2])
    assert series(client, f"{gauge} ") == {gauge: 0}
    ask_of(client, "pump", {})
    post(client, sent[CALM + 2 : CALM + 3])  # the first reading that counts begins the incident
    (one,) = incidents(client)
    assert one["start"] == one["last"]
    assert series(client, f"{gauge} ") == {gauge: 1}
    post(client, readings("pump", 200)[CALM + 3 :])
    assert series(client, f"{gauge} ") == {gauge: 0}
    assert incidents(client)[0]["state"] == "ended"


def test_merged_anomalies_stay_open_until_merge_has_passed(client: TestClient) -> None:
    ask_of(client, "pump", {"merge": {"readings": 100}})
    sent = readings("pump", 300)
    for one in sent[CALM : CALM + FAULT]:
        one["values"]["pressure"] = 900.0
    post(client, sent[: CALM + FAULT + 90])
    assert [one["state"] for one in incidents(client)] == ["open"]
    assert series(client, "gatewatch_open_anomalies ") == {"gatewatch_open_anomalies": 1}
    post(client, sent[CALM + FAULT + 90 :])
    assert [one["state"] for one in incidents(client)] == ["ended"]
    assert series(client, "gatewatch_open_anomalies ") == {"gatewatch_open_anomalies": 0}


def test_a_late_reading_that_completes_a_fault_tells_of_it(client: TestClient) -> None:
    for stream in ("late", "in-time"):
        ask_of(client, stream, {"minimum": {"readings": FAULT}, "gates": [{"direction": "above"}]})
        client.put(f"/v1/streams/{stream}", json={"reorder_window_s": 3600}).raise_for_status()
    sent = faults("late")[: CALM + FAULT + 1]
    missing = sent.pop(CALM + 2)
    post(client, sent)
    assert incidents(client) == []
    (answer,) = post(client, [missing])
    assert (answer["corrected"], answer["status"]) == (True, "anomalous")
    post(client, faults("in-time")[: CALM + FAULT + 1])
    late, in_time = (incidents(client, stream=name) for name in ("late", "in-time"))
    assert [one["start"] for one in late] == [one["start"] for one in in_time]
    post(client, readings("late", 200)[CALM + FAULT + 1 :])
    assert [one["state"] for one in incidents(client, stream="late")] == ["ended"]


def test_gates_for_channels_that_are_not_there_are_named(client: TestClient) -> None:
    post(client, readings("pump", 1))
    client.put("/v1/policies", json={"policies": [{"pattern": "*", "gates": [{"channel": "valve*", "low": 1}]}]})
    ask_of(client, "pump", {"gates": [{"channel": "press*", "direction": "above"}]})
    shown = client.get("/v1/streams/pump/policy").json()
    assert [gate["channel"] for gate in shown["policy"]["gates"]] == ["valve*", "press*"]
    assert shown["gates_without_channel"] == ["valve*"]


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ({}, "asks nothing"),
        ({"channel": "pressure", "zone": "UTC"}, "asks nothing"),
        ({"low": 2, "high": 1}, "every value would be outside"),
        ({"hours": "8-18"}, "hours"),
        ({"hours": "08:00-18:00", "zone": "Mars/Olympus"}, "no time zone"),
        ({"days": ["someday"]}, "days"),
        ({"absolute": -1}, "absolute"),
        ({"direction": "up"}, "direction"),
    ],
)
def test_what_is_no_gate_is_refused_by_name(client: TestClient, gate: dict[str, Any], told: str) -> None:
    reply = client.put("/v1/streams/pump/policy", json={"gates": [gate]})
    assert reply.status_code == 422
    assert told in reply.json()["detail"]
    assert client.get("/v1/streams/pump/policy").json()["asked"] == {}


@pytest.mark.parametrize(
    "span", [{}, {"readings": 1, "seconds": 1}, {"readings": 0}, {"seconds": -1}, {"readings": 1.5}]
)
def test_a_duration_is_in_readings_or_in_seconds(client: TestClient, span: dict[str, Any]) -> None:
    for name in ("minimum", "merge", "cool_off"):
        assert client.put("/v1/streams/pump/policy", json={name: span}).status_code == 422


def test_of_100_000_streams_that_one_pattern_means_each_costs_microseconds() -> None:
    """And rules are made once for all of them."""

    class Kept:
        async def number(self) -> int:
            return 1

        async def read(self) -> bytes:
            asked = {"policies": [{"pattern": "*", "gates": [{"low": 0}], "minimum": {"readings": 2}}]}
            return json.dumps({"number": 1, "asked": asked}).encode()

        async def write(self, before: int, number: int, document: bytes) -> bool:  # noqa: ARG002
            raise AssertionError

    async def numbers(tenants: list[str]) -> list[int]:
        return [1] * len(tenants)

    policies = StreamPolicies(lambda _: Kept(), numbers)
    streams = [StreamKey("t", f"s{n}") for n in range(100_000)]
    asyncio.run(policies.newest("t"))
    found = policies.rules(streams)
    assert len(found) == len(streams)
    assert len(set(map(id, found.values()))) == 1


def test_the_command_sets_gates_and_durations(tmp_path: Path) -> None:
    with serving(None, tmp_path) as (url, _):
        given = ('gates=[{"channel":"pressure","low":0.5}]', "minimum.readings=5", "cool_off.seconds=600")
        done = gatewatch("policies", "set", "pump-*", *given, "--url", url)
        assert done.returncode == 0, done.stderr
        shown = json.loads(gatewatch("policies", "show", "pump-7", "--url", url).stdout)
        assert shown == {
            "gates": [{"channel": "pressure", "low": 0.5}], "minimum": {"readings": 5}, "cool_off": {"seconds": 600.0},
        }  # fmt: skip
        times = ("start=2026-05-04T08:00:00+02:00", "end=2126-05-04T08:00:00+02:00")
        done = gatewatch("windows", "set", "pump-work", "stream=pump-*", *times, "--url", url)
        assert json.loads(done.stdout)["pump-work"]["active"], done.stderr
        done = gatewatch("windows", "set", "weekly", "days=sat,sun", "hours=22:00-06:00", "zone=Mars", "--url", url)
        assert (done.returncode, "no time zone" in done.stderr) == (2, True)
        assert list(json.loads(gatewatch("windows", "show", "--url", url).stdout)) == ["pump-work"]
        assert gatewatch("windows", "end", "pump-work", "--url", url).stdout.strip() == "{}"
