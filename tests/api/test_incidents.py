"""Incidents over HTTP: found, read, answered and heard of."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from gatewatch.service.app import create_app
from gatewatch.service.client.asking import unix_ms
from gatewatch.service.http.parts import Parts
from gatewatch.service.incidents import feed, incident
from gatewatch.service.incidents import reading as incident_reading
from gatewatch.service.settings import Settings
from gatewatch.service.storage import incident_store
from gatewatch.service.storage.store import StateStore
from tests.support.samples import PATIENT_MS, post, readings
from tests.support.whole_path import serving

CALM, FAULT = 60, 5


def fault(stream: str, count: int = CALM + FAULT, at: int = CALM, pressure: float = 900.0) -> list[dict[str, Any]]:
    """A stream's readings, strange from one on."""
    sent = readings(stream, count)
    for one in sent[at : at + FAULT]:
        one["values"] = {**one["values"], "pressure": pressure}
    return sent


def the_incident(client: TestClient, **search: Any) -> dict[str, Any]:
    found = client.get("/v1/incidents", params=search).json()["incidents"]
    assert len(found) == 1, found
    only: dict[str, Any] = found[0]
    return only


def test_a_fault_is_an_incident_with_its_channel_direction_and_values(client: TestClient) -> None:
    post(client, fault("pump"))
    one = the_incident(client)
    assert (one["stream"], one["state"], one["end"]) == ("pump", "open", None)
    assert one["id"] == f"{CALM}.pump"
    worst = one["channels"][0]
    assert (worst["channel"], worst["direction"], worst["actual"]) == ("pressure", "above", 900)
    assert worst["expected"][0] < worst["expected"][1] < worst["expected"][2] < 900
    assert one["peak_score"] > 1
    assert one["onset"] <= one["start"] <= one["last"]
    assert one["alerts"][0]["timestamp"] == one["start"]


def test_it_is_the_same_whether_sent_one_by_one_or_at_once_and_repeats_change_nothing(
    settings: Callable[..., Settings],
) -> None:
    with TestClient(create_app(settings(incident_write_s=0.0))) as client:  # while it is open, too
        sent = fault("at-once")
        post(client, sent)
        for reading in fault("one-by-one"):
            post(client, [reading])
        together, apart = (the_incident(client, stream=name) for name in ("at-once", "one-by-one"))
        for key in ("state", "onset", "start", "last", "peak_score", "anomalous", "judged", "channels", "alerts"):
            assert together[key] == apart[key], key
        post(client, sent[-30:])
        assert the_incident(client, stream="at-once") == together


@pytest.mark.parametrize("rules", [[], [{"pattern": "*", "minimum": {"readings": 2}}]])
def test_the_onset_of_a_rise_longer_than_the_history_is_the_same_however_it_is_sent(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, rules: list[Any]
) -> None:
    monkeypatch.setattr(incident, "CALM_SCORE", -1.0)  # every reading is on its way
    with TestClient(create_app(settings(history_readings=32))) as client:
        client.put("/v1/policies", json={"policies": rules}).raise_for_status()
        for size in (1, 7, CALM + FAULT):
            sent = fault(f"by-{size}")
            for start in range(0, len(sent), size):
                post(client, sent[start : start + size])
        onsets = {the_incident(client, stream=f"by-{size}")["onset"] for size in (1, 7, CALM + FAULT)}
        assert {round(unix_ms(one) / 1000) for one in onsets} == {round(sent[CALM - 32]["timestamp"])}


def test_it_ends_and_the_readings_around_it_stay(client: TestClient) -> None:
    post(client, fault("pump", count=CALM + FAULT + 60))
    one = the_incident(client)
    assert one["state"] == "ended"
    assert one["end"] == one["last"]
    whole = client.get(f"/v1/incidents/{one['id']}").json()
    numbers = [reading["n"] for reading in whole["readings"]]
    assert numbers == sorted(set(numbers))
    assert numbers[0] < CALM < CALM + FAULT < numbers[-1]
    post(client, readings("pump", 600)[CALM + FAULT + 60 :])
    again = client.get(f"/v1/incidents/{one['id']}").json()
    assert [reading["n"] for reading in again["readings"]] == numbers  # the stream's own history has moved on
    strange = [reading for reading in again["readings"] if reading["result"]["status"] == "anomalous"]
    assert strange[0]["values"]["pressure"] == 900


def test_the_log_names_stream_channel_and_time_of_its_beginning_and_its_end(client: TestClient) -> None:
    with capture_logs() as logged:
        post(client, fault("pump", count=CALM + FAULT + 60))
    one = the_incident(client)
    lines = [line for line in logged if line["event"].startswith("anomaly")]
    assert [(line["event"], line["stream"], line["channel"], line["at"]) for line in lines] == [
        ("anomaly opened", "pump", "pressure", one["start"]),
        ("anomaly ended", "pump", "pressure", one["end"]),
    ]


def test_incidents_are_searched_and_paged_the_last_first(client: TestClient) -> None:
    for number in range(7):
        post(client, fault(f"pump-{number}"))
    post(client, fault("fan-1", count=CALM + FAULT + 60))
    names, after = [], ""
    while True:
        page = client.get("/v1/incidents", params={"limit": 3, "after": after}).json()
        names += [one["stream"] for one in page["incidents"]]
        after = page["next"]
        if after is None:
            break
    assert sorted(names) == sorted({*names})
    assert len(names) == 8
    assert [one["stream"] for one in client.get("/v1/incidents?stream=fan-*").json()["incidents"]] == ["fan-1"]
    assert len(client.get("/v1/incidents?state=open").json()["incidents"]) == 7
    assert client.get("/v1/incidents?min_score=1e9").json()["incidents"] == []
    assert client.get("/v1/incidents?until=5").json()["incidents"] == []
    assert client.get("/v1/incidents?since=5").json()["next"] is None


def test_people_acknowledge_label_and_note(client: TestClient) -> None:
    post(client, fault("pump"))
    path = f"/v1/incidents/{the_incident(client)['id']}"
    assert client.post(f"{path}/acknowledge", json={"by": "Ada"}).json()["acknowledged"]["by"] == "Ada"
    assert client.post(f"{path}/acknowledge", json={"by": "Bo"}).json()["acknowledged"]["by"] == "Ada"
    assert client.post(f"{path}/label", json={"label": "expected"}).json()["label"] == "expected"
    assert client.post(f"{path}/label", json={"label": "false_alarm", "by": "Bo"}).json()["labelled"]["by"] == "Bo"
    notes = client.post(f"{path}/note", json={"text": "valve stuck", "by": "Ada"}).json()["notes"]
    assert [(one["text"], one["by"]) for one in notes] == [("valve stuck", "Ada")]
    post(client, fault("pump", count=CALM + FAULT + 60)[CALM + FAULT :])
    kept = client.get(path).json()
    assert (kept["state"], kept["label"], kept["acknowledged"]["by"]) == ("ended", "false_alarm", "Ada")


def test_two_who_answer_at_once_lose_nothing(client: TestClient) -> None:
    post(client, fault("pump"))
    path = f"/v1/incidents/{the_incident(client)['id']}"
    threads = [
        threading.Thread(target=client.post, args=(f"{path}/note",), kwargs={"json": {"text": f"note {number}"}})
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one["text"] for one in client.get(path).json()["notes"]} == {f"note {number}" for number in range(8)}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/incidents/7.nobody", None, 404),
        ("POST", "/v1/incidents/7.nobody/acknowledge", {}, 404),
        ("GET", "/v1/incidents/nonsense", None, 422),
        ("GET", "/v1/incidents?state=half", None, 422),
        ("GET", "/v1/incidents?after=x", None, 422),
        ("POST", "/v1/incidents/7.nobody/label", {"label": "perhaps"}, 422),
        ("POST", "/v1/incidents/7.nobody/note", {"text": ""}, 422),
        ("POST", "/v1/incidents/7.nobody/note", {"text": "a", "color": 1}, 422),
    ],
)
def test_what_is_not_understood_is_a_problem(
    client: TestClient, method: str, path: str, body: dict[str, Any] | None, status: int
) -> None:
    reply = client.request(method, path, json=body)
    assert reply.status_code == status
    assert reply.json()["detail"]


def test_a_deleted_stream_takes_its_incidents_along(client: TestClient) -> None:
    post(client, fault("pump"))
    client.delete("/v1/streams/pump")
    assert client.get("/v1/incidents").json()["incidents"] == []
    post(client, readings("pump", 3))
    assert client.get("/v1/incidents").json()["incidents"] == []


def test_another_process_goes_on_with_an_incident(settings: Callable[..., Settings]) -> None:
    with TestClient(create_app(settings())) as one, TestClient(create_app(settings())) as other:
        sent = fault("pump", count=CALM + FAULT + 60)
        post(one, sent[: CALM + 2])
        post(other, sent[CALM + 2 :])
        post(one, [{**reading, "stream": "alone"} for reading in sent])
        of_two, alone = (the_incident(one, stream=name) for name in ("pump", "alone"))
    assert (of_two["id"], of_two["state"]) == (f"{CALM}.pump", "ended")
    assert of_two | {"id": "", "stream": ""} == alone | {"id": "", "stream": ""}


def test_old_incidents_and_those_beyond_the_most_are_forgotten(redis_url: str, tenant: str, client: TestClient) -> None:
    for number in range(5):
        post(client, fault(f"pump-{number}", at=CALM - number))

    async def trim(before_ms: int, most: int) -> int:
        store = StateStore(redis_url, tenant, PATIENT_MS)
        try:
            return await store.incidents.trim(tenant, before_ms, most, 0)
        finally:
            await store.close()

    assert asyncio.run(trim(0, 5)) == 0
    assert asyncio.run(trim(0, 4)) == 1
    left = [one["stream"] for one in client.get("/v1/incidents").json()["incidents"]]
    assert left == ["pump-0", "pump-1", "pump-2", "pump-3"]
    assert client.get(f"/v1/incidents/{CALM - 4}.pump-4").status_code == 200  # it is the stream's latest, and goes on
    assert asyncio.run(trim(2**53, 100)) == 4
    assert client.get("/v1/incidents").json()["incidents"] == []


def test_those_that_ended_unanswered_make_room_before_others(
    redis_url: str, tenant: str, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incident_store, "SCANNED", 2)
    calm = CALM + FAULT + 60
    for number, count in enumerate((CALM + FAULT, calm, calm, CALM + FAULT, calm)):
        post(client, fault(f"pump-{number}", count, at=CALM - 5 + number))
    ids = {number: f"{CALM - 5 + number}.pump-{number}" for number in range(5)}
    for number, way, body in ((1, "acknowledge", {}), (3, "note", {"text": "looked at"})):
        assert client.post(f"/v1/incidents/{ids[number]}/{way}", json=body).status_code == 200

    async def left(most: int) -> list[str]:
        store = StateStore(redis_url, tenant, PATIENT_MS)
        try:
            await store.incidents.trim(tenant, 0, most, 0)
        finally:
            await store.close()
        return [one["id"] for one in client.get("/v1/incidents").json()["incidents"]]

    with capture_logs() as logs:
        assert asyncio.run(left(4)) == [ids[at] for at in (4, 3, 1, 0)]  # the oldest that has ended unanswered
        assert asyncio.run(left(3)) == [ids[at] for at in (3, 1, 0)]
    assert logs == []
    with capture_logs() as logs:
        assert asyncio.run(left(2)) == [ids[at] for at in (3, 1)]  # open before answered, and not without a word
        assert asyncio.run(left(1)) == [ids[3]]
    assert [one["log_level"] for one in logs] == ["warning", "warning"]


def test_one_that_goes_on_is_not_too_old(redis_url: str, tenant: str, client: TestClient) -> None:
    post(client, fault("ended", CALM + FAULT + 60))
    post(client, fault("open", CALM + FAULT))
    incident = the_incident(client, stream="open")
    last_ms = round(1000 * datetime.fromisoformat(incident["last"]).timestamp())

    async def trim(before_ms: int) -> int:
        store = StateStore(redis_url, tenant, PATIENT_MS)
        try:
            return await store.incidents.trim(tenant, before_ms, 100, 0)
        finally:
            await store.close()

    assert asyncio.run(trim(last_ms)) == 1
    assert the_incident(client)["id"] == incident["id"]
    assert asyncio.run(trim(last_ms + 1)) == 1


def test_more_of_one_time_than_are_read_at_once_are_all_found(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incident_reading, "CHUNK", 2)
    sent = [fault(f"pump-{number}") for number in range(7)]
    post(client, [one for of_stream in sent for one in of_stream])
    assert len({one["start"] for one in client.get("/v1/incidents").json()["incidents"]}) == 1
    for limit in (1, 3, 7):
        found, after = list[str](), ""
        while after is not None:
            page = client.get("/v1/incidents", params={"limit": limit, "after": after}).json()
            found += [one["stream"] for one in page["incidents"]]
            after = page["next"]
        assert sorted(found) == [f"pump-{number}" for number in range(7)]


def test_a_listener_that_comes_back_hears_of_all_that_it_missed(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "AT_ONCE", 2)
    with TestClient(create_app(settings())) as client:
        for number in range(5):
            post(client, fault(f"pump-{number}"))
        parts: Parts = client.app.state.parts  # type: ignore[attr-defined]

        async def missed() -> list[str]:
            changes = parts.feed.changes(parts.settings.tenant, 0)
            heard = [await anext(changes) for _ in range(5)]
            await changes.aclose()
            return [one[1]["stream"] for one in heard if one is not None]

        assert client.portal is not None
        assert client.portal.call(missed) == [f"pump-{number}" for number in range(5)]


@pytest.fixture(scope="module")
def url(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(artefact, tmp_path_factory.mktemp("data"), GATEWATCH_DRAIN_S="0") as (url, _):
        yield url


def events(reply: httpx2.Response) -> Iterator[tuple[int, dict[str, Any]]]:
    id_ = 0
    for line in reply.iter_lines():
        if line.startswith("id: "):
            id_ = int(line.removeprefix("id: "))
        elif line.startswith("data: "):
            yield id_, json.loads(line.removeprefix("data: "))


def test_a_listener_hears_of_changes_and_goes_on_where_it_was(url: str) -> None:
    with httpx2.stream("GET", f"{url}/v1/incidents/stream", timeout=30) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        httpx2.post(f"{url}/v1/readings", json=fault("heard"), timeout=30).raise_for_status()
        last, first = next(events(reply))
        assert (first["stream"], first["state"]) == ("heard", "open")
    httpx2.post(f"{url}/v1/incidents/{first['id']}/note", json={"text": "meanwhile"}).raise_for_status()
    with httpx2.stream("GET", f"{url}/v1/incidents/stream", headers={"Last-Event-ID": str(last)}, timeout=30) as reply:
        for _, again in events(reply):
            if again["notes"]:
                break
        assert again["id"] == first["id"]


def test_incidents_have_the_tags_of_their_streams_and_are_found_by_them(settings: Callable[..., Settings]) -> None:
    tagged = {"policies": [{"pattern": "n-*", "tags": {"site": "north", "line": "3"}}]}
    with TestClient(create_app(settings())) as client:
        assert client.put("/v1/policies", json=tagged).is_success
        for stream in ("n-1", "other"):
            post(client, fault(stream))
        assert client.put("/v1/policies", json={}).is_success
        post(client, fault("n-2"))
        assert the_incident(client, stream="n-1")["tags"] == {"site": "north", "line": "3"}
        assert the_incident(client, stream="n-2")["tags"] == {}
        for tag in ("site=north", "line=3", "line"):
            assert the_incident(client, tag=tag)["stream"] == "n-1"
        for tag in ("site=south", "sit", "unit"):
            assert client.get("/v1/incidents", params={"tag": tag}).json()["incidents"] == []
        assert client.get("/v1/incidents", params={"tag": "=north"}).status_code == 422


def test_those_told_when_a_window_is_over_are_one_group(settings: Callable[..., Settings]) -> None:
    with TestClient(create_app(settings(group_by="site"))) as client:
        assert client.put("/v1/policies", json={"policies": [{"pattern": "*", "tags": {"site": "north"}}]}).is_success
        sent = [one for stream in ("a", "b") for one in fault(stream)]
        begin, end = (datetime.fromtimestamp(sent[at]["timestamp"], UTC).isoformat() for at in (CALM - 1, CALM + 2))
        assert client.put("/v1/windows/seals", json={"start": begin, "end": end, "skip": "judging"}).is_success
        post(client, [one for one in sent if one["timestamp"] < sent[CALM + 1]["timestamp"]])
        untold = client.get("/v1/incidents").json()["incidents"]
        assert [(one["told"], one["group"], one["tags"]) for one in untold] == 2 * [(False, None, {"site": "north"})]
        post(client, [one for one in sent if one["timestamp"] >= sent[CALM + 1]["timestamp"]])
        told = client.get("/v1/incidents").json()["incidents"]
        assert [one["told"] for one in told] == [True, True]
        assert len({one["group"] for one in told} - {None}) == 1
        assert "gatewatch_open_group_streams{" in client.get("/metrics").text


def test_no_more_listen_than_may(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "LISTENERS", 0)
    reply = client.get("/v1/incidents/stream")
    assert (reply.status_code, "retry-after" in reply.headers) == (429, True)


def test_listeners_do_not_hold_up_the_end_of_the_service(artefact: Path, tmp_path: Path) -> None:
    """`serving` gives it 30 s, and listeners are told in one."""
    with serving(artefact, tmp_path / "data") as (url, process):
        with httpx2.stream("GET", f"{url}/v1/incidents/stream", timeout=30) as reply:
            lines = reply.iter_lines()
            assert next(lines).startswith("retry")
            process.terminate()
            began = time.monotonic()
            assert [line for line in lines if line.startswith("data")] == []
            process.wait(20)
        assert time.monotonic() - began < 20


def test_incidents_of_one_site_are_asked_for_by_their_group(settings: Callable[..., Settings]) -> None:
    asked = {"policies": [{"pattern": "n-*", "tags": {"site": "north"}}, {"pattern": "n-9", "muted": True}]}
    with TestClient(create_app(settings(group_by="site"))) as client:
        assert client.put("/v1/policies", json=asked).is_success
        for stream in ("n-2", "n-9", "n-1", "other"):
            sent = fault(stream)
            for reading in sent:
                reading["timestamp"] += {"n-1": 0, "n-2": 5, "n-9": 9, "other": 1}[stream]
            post(client, sent)
        found = {one["stream"]: one for one in client.get("/v1/incidents").json()["incidents"]}
        assert (found["other"]["group"], found["other"]["tag"]) == (None, None)
        group = found["n-1"]["group"]
        assert group == found["n-2"]["id"]
        page = client.get("/v1/incidents", params={"group": group, "limit": 1}).json()
        rest = client.get("/v1/incidents", params={"group": group, "after": page["next"]}).json()
        assert [one["stream"] for one in page["incidents"] + rest["incidents"]] == ["n-1", "n-2"]
        assert found["n-9"]["group"] is None
        assert {one["tag"] for one in page["incidents"]} == {"site=north"}
        assert client.get("/v1/incidents", params={"group": "7.nobody"}).json() == {"incidents": [], "next": None}
        exposed = client.get("/metrics").text
        assert f'gatewatch_open_group_streams{{group="{group}",tag="site=north",tenant=""}} 2.0' in exposed
        assert 'stream="n-9"' not in exposed
        assert client.get("/v1/conditions").json() == {"conditions": [], "next": None}
