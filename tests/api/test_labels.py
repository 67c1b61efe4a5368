"""A false alarm that was labelled once does not come back; what is larger, elsewhere or otherwise does."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis import Redis
from starlette.testclient import TestClient

from gatewatch.models.recordings.labels import read_intervals
from gatewatch.service.app import create_app
from gatewatch.service.client.asking import unix_ms
from gatewatch.service.core.records import tail_in
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.policies.quiet import QUIET_DAYS
from gatewatch.service.settings import Settings
from gatewatch.service.storage.store import StateStore
from tests.support.cli import gatewatch
from tests.support.samples import PATIENT_MS, post, readings
from tests.support.scorer import state_key
from tests.support.whole_path import serving

CALM, FAULT, PAUSE = 120, 8, 260
LENGTH = CALM + 12 * (FAULT + PAUSE)


@pytest.fixture
def service(settings: Callable[..., Settings]) -> Iterator[TestClient]:
    with TestClient(create_app(settings())) as client:
        yield client


class Stream:
    """A stream that is calm for long, and has a fault when asked to."""

    def __init__(self, client: TestClient, name: str) -> None:
        self.client, self.name = client, name
        self._sent = readings(name, LENGTH, seed=3)
        for reading in self._sent:
            reading["values"] = {
                channel: 3.0 if value is None else value for channel, value in reading["values"].items()
            }
        self._at = 0

    def go(self, count: int, later_s: float = 0, **off: float) -> list[dict[str, Any]]:
        """Send readings, some channels off by so much."""
        sent = self._sent[self._at : self._at + count]
        self._at += count
        for reading in self._sent[self._at - count :]:
            reading["timestamp"] += later_s
        for reading in sent:
            reading["values"] |= {channel: reading["values"][channel] + by for channel, by in off.items()}
        return post(self.client, sent)

    def fault(self, **off: float) -> list[dict[str, Any]]:
        """A fault and a long calm behind it."""
        return self.go(FAULT, **off) + self.go(PAUSE)

    def incidents(self) -> list[dict[str, Any]]:
        """Newest first."""
        found: list[dict[str, Any]] = self.client.get("/v1/incidents", params={"stream": self.name}).json()["incidents"]
        return found

    def label(self, incident: str, label: str) -> list[dict[str, Any]]:
        reply = self.client.post(f"/v1/incidents/{incident}/label", json={"label": label, "by": "ann"})
        assert reply.status_code == 200, reply.text
        assert reply.json()["label"] == label
        quiet: list[dict[str, Any]] = reply.json()["quiet"]
        return quiet


@pytest.fixture
def stream(service: TestClient) -> Stream:
    made = Stream(service, "pump")
    made.go(CALM)
    made.fault(pressure=9.0)
    assert len(made.incidents()) == 1
    return made


def test_what_is_like_a_false_alarm_is_quiet_and_says_why(stream: Stream) -> None:
    (first,) = stream.incidents()
    quiet = stream.label(first["id"], "false_alarm")
    assert {(one["incident"], one["channel"]) for one in quiet} == {(first["id"], "pressure")}
    for _ in range(3):
        results = stream.fault(pressure=9.0)
        anomalous = [one for one in results if one["score"] > 1]
        assert anomalous
        assert {one.get("gate") for one in anomalous} == {"label"}
        assert [one["id"] for one in stream.incidents()] == [first["id"]]
    assert stream.label(first["id"], "false_alarm") == quiet
    assert stream.client.get("/v1/streams/pump/policy").json()["asked"]["quiet"] == quiet


@pytest.mark.parametrize("off", [{"pressure": 20.0}, {"pressure": -9.0}, {"flow": 9.0}, {"pressure": 9.0, "flow": 9.0}])
def test_what_is_larger_or_elsewhere_is_an_incident(stream: Stream, off: dict[str, float]) -> None:
    (first,) = stream.incidents()
    stream.label(first["id"], "false_alarm")
    stream.fault(**off)
    assert len(stream.incidents()) == 2


QUIET = {
    "incident": "1.pump",
    "channel": "pressure",
    "direction": "above",
    "deviation": 13.0,
    "score": 1e6,
    "until": 1e12,
}


@pytest.mark.parametrize("change", ["joins", "is removed"])
def test_what_is_told_whole_is_so_too_when_a_channel_changes(redis_url: str, tenant: str, change: str) -> None:
    """The general model's state is carried over to other channels, and the step with it."""
    settings = Settings(redis_url=redis_url, tenant=tenant, store_timeout_ms=PATIENT_MS, log_level="error")

    def kept() -> dict[str, Any]:
        with Redis.from_url(redis_url) as store:
            packed: Any = store.get(state_key(tenant, "pump"))
        return tail_in(packed)

    with TestClient(create_app(settings)) as client:
        made = Stream(client, "pump")
        made.go(CALM)
        client.put("/v1/streams/pump/policy", json={"quiet": [QUIET]}).raise_for_status()
        assert {one.get("gate") for one in made.go(3, pressure=-40.0) if one["score"] > 1} == {None}
        before = kept()
        assert before["step"] == -math.inf
        if change == "is removed":
            client.delete("/v1/streams/pump/channels", params={"channel": "flow"}).raise_for_status()
        else:
            reading = made._sent[CALM + 3]
            reading["values"]["speed"] = 1.0
            made.go(1, pressure=-40.0)
    assert kept() == before


def test_a_step_goes_with_the_last_label(service: TestClient, redis_url: str, tenant: str) -> None:
    made = Stream(service, "pump")
    made.go(CALM)
    service.put("/v1/streams/pump/policy", json={"quiet": [QUIET]}).raise_for_status()
    made.go(3, pressure=-40.0)
    service.put("/v1/streams/pump/policy", json={"quiet": []}).raise_for_status()
    with Redis.from_url(redis_url) as store:
        records: list[Any] = [store.get(state_key(tenant, "pump"))]
        made.go(1, pressure=-40.0)
        records.append(store.get(state_key(tenant, "pump")))
    assert [one.get("step") for one in map(tail_in, records)] == [-math.inf, None]
    assert len(records[0]) - len(records[1]) == 40


def test_what_goes_to_the_other_side_soon_after_its_like_is_an_incident(stream: Stream) -> None:
    """One at once may be the end of it; the detector's own incident is open still, and nobody was told of that."""
    (first,) = stream.incidents()
    stream.label(first["id"], "false_alarm")
    like = [one for one in stream.go(FAULT, pressure=9.0) + stream.go(20) if one["score"] > 1]
    assert {one.get("gate") for one in like} == {"label"}
    other = [one for one in stream.go(3, pressure=-9.0) if one["score"] > 1]
    assert {one.get("gate") for one in other} == {None}
    assert len(stream.incidents()) == 2


def test_what_lasts_much_longer_is_told(stream: Stream) -> None:
    (first,) = stream.incidents()
    (quiet,) = stream.label(first["id"], "false_alarm")
    results = stream.go(6 * FAULT + 30, pressure=9.0)
    gated = [one.get("gate") == "label" for one in results if one["score"] > 1]
    assert gated[0]
    assert not gated[-1]
    told = stream.incidents()[0]["id"]
    assert told != first["id"]
    assert quiet["readings"] < int(told.partition(".")[0]) - CALM - FAULT - PAUSE <= quiet["readings"] + 31


def test_another_label_takes_it_back(stream: Stream) -> None:
    (first,) = stream.incidents()
    stream.client.put("/v1/streams/pump/policy", json={"tags": {"site": "north"}})
    assert stream.label(first["id"], "false_alarm")
    assert stream.client.get("/v1/streams/pump/policy").json()["asked"]["tags"] == {"site": "north"}
    assert stream.label(first["id"], "true") == []
    assert stream.client.get("/v1/streams/pump/policy").json()["asked"] == {"tags": {"site": "north"}}
    stream.fault(pressure=9.0)
    assert len(stream.incidents()) == 2


def test_of_an_incident_without_its_readings_the_highest_score_says_what_is_like_it(
    stream: Stream, redis_url: str, tenant: str
) -> None:
    (first,) = stream.incidents()

    async def lose() -> None:
        store = StateStore(redis_url, tenant, PATIENT_MS)
        try:
            n, of = int(first["id"].partition(".")[0]), StreamKey(tenant, "pump")
            await store.ask([b"DEL", *(store.keys.incident(of, n, what) for what in ("before", "after"))])
        finally:
            await store.close()

    asyncio.run(lose())
    assert stream.client.get(f"/v1/incidents/{first['id']}").json()["readings"] == []
    (quiet,) = stream.label(first["id"], "false_alarm")
    assert (quiet["channel"], quiet["direction"]) == ("pressure", "above")
    assert "label" in {one.get("gate") for one in stream.fault(pressure=9.0)}


def test_policies_that_are_put_leave_what_was_labelled(stream: Stream) -> None:
    (first,) = stream.incidents()
    quiet = stream.label(first["id"], "false_alarm")
    client = stream.client
    assert client.put("/v1/policies", json={"policies": [{"pattern": "*", "quiet": quiet}]}).status_code == 200
    own = client.put("/v1/streams/pump/policy", json={"sensitivity": 0.9}).json()
    assert (own["asked"], own["policy"]["quiet"]) == ({"sensitivity": 0.9, "quiet": quiet}, [*quiet, *quiet])
    assert client.put("/v1/policies", json={"streams": {"fan": {"muted": True}}}).status_code == 200
    assert client.get("/v1/policies").json()["streams"] == {"fan": {"muted": True}, "pump": {"quiet": quiet}}
    assert client.put("/v1/streams/pump/policy", json={"quiet": []}).json()["asked"] == {}
    assert client.get("/v1/policies").json()["streams"] == {"fan": {"muted": True}}


def test_who_labels_at_once_leaves_one_label_and_what_follows_from_it(stream: Stream) -> None:
    (first,) = stream.incidents()
    with ThreadPoolExecutor(4) as people:
        for _ in range(20):
            labels = ["false_alarm", "true", "false_alarm", "expected"]
            list(people.map(lambda label: stream.label(first["id"], label), labels))
            asked = stream.client.get("/v1/streams/pump/policy").json()["asked"]
            assert bool(asked.get("quiet")) == (stream.incidents()[0]["label"] == "false_alarm")


def test_an_incident_that_is_unknown_or_went_with_its_stream_has_no_label(stream: Stream) -> None:
    (first,) = stream.incidents()
    client = stream.client
    assert client.delete("/v1/streams/pump").status_code == 204
    for one in ("7.nobody", "s3.pump", first["id"]):
        assert client.post(f"/v1/incidents/{one}/label", json={"label": "false_alarm"}).status_code == 404
    assert client.get("/v1/policies").json()["streams"] == {}


def test_one_that_a_person_closed_is_labelled_as_any(service: TestClient) -> None:
    service.put("/v1/streams/pump/policy", json={"hold": True})
    stream = Stream(service, "pump")
    stream.go(CALM)
    stream.fault(pressure=9.0)
    (first,) = stream.incidents()
    assert service.post(f"/v1/incidents/{first['id']}/close", json={"by": "ann"}).json()["state"] == "ended"
    assert {one["incident"] for one in stream.label(first["id"], "false_alarm")} == {first["id"]}
    assert {one.get("gate") for one in stream.fault(pressure=9.0) if one["score"] > 1} == {"label"}


def test_other_streams_and_later_times_are_as_before(stream: Stream) -> None:
    (first,) = stream.incidents()
    stream.label(first["id"], "false_alarm")
    other = Stream(stream.client, "fan")
    other.go(CALM)
    other.fault(pressure=9.0)
    assert len(other.incidents()) == 1
    stream.go(CALM, later_s=(QUIET_DAYS + 1) * 86_400)
    stream.fault(pressure=9.0)
    assert len(stream.incidents()) == 2


def test_a_label_counts_in_every_process(stream: Stream, settings: Callable[..., Settings]) -> None:
    (first,) = stream.incidents()
    stream.label(first["id"], "false_alarm")
    with TestClient(create_app(settings())) as other:
        stream.client = other
        results = stream.fault(pressure=9.0)
        assert {one.get("gate") for one in results if one["score"] > 1} == {"label"}
        assert [one["id"] for one in stream.incidents()] == [first["id"]]


def test_the_command_lists_answers_and_labels(tmp_path: Path) -> None:
    with serving(None, tmp_path) as (url, _):
        sent = [
            {
                "stream": "pump",
                "timestamp": 1_790_000_000 + 60 * at,
                "values": {"flow": 3 + at % 5 / 10 + 9 * (at > 380)},
            }
            for at in range(400)
        ]
        httpx2.post(f"{url}/v1/readings", json=sent).raise_for_status()
        listed = gatewatch("incidents", "list", "--url", url).stdout.splitlines()
        assert len(listed) == 2, listed
        incident = listed[1].split()[0]
        done = gatewatch("incidents", "label", incident, "false_alarm", "--by", "ann", "--url", url)
        assert done.stdout.splitlines()[0] == f"{incident}: false_alarm"
        assert done.stdout.splitlines()[2].split()[:2] == ["flow", "above"]
        assert (
            "acknowledged by ann" in gatewatch("incidents", "acknowledge", incident, "--by", "ann", "--url", url).stdout
        )
        assert gatewatch("incidents", "note", incident, "valve test", "--url", url).stdout == f"{incident}: 1 notes\n"
        shown = json.loads(gatewatch("incidents", "show", incident, "--url", url).stdout)
        assert (shown["label"], shown["notes"][0]["text"]) == ("false_alarm", "valve test")
        assert gatewatch("incidents", "faults", "--url", url).stdout == "stream,start,end\n"
        gatewatch("incidents", "label", incident, "true", "--url", url)
        faults = tmp_path / "faults.csv"
        faults.write_text(gatewatch("incidents", "faults", "--stream", "p*", "--url", url).stdout)
        ((of, (interval,)),) = read_intervals(faults).items()
        assert (of, interval.start_us // 1_000_000) == ("pump", unix_ms(shown["onset"]) // 1000)
        assert gatewatch("incidents", "show", "7.nobody", "--url", url).returncode == 2
