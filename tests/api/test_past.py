"""Readings of the past, and readings that are only tried."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from gatewatch.service.app import create_app
from gatewatch.service.settings import Settings
from gatewatch.service.storage.private_redis import start_private_redis
from tests.api.test_states import answers, exported, fault, known, put, same_state
from tests.support.samples import post, readings

Make = Callable[..., Settings]


@pytest.fixture(params=["trained", "any channels"])
def make(request: pytest.FixtureRequest, settings: Make) -> Make:
    """Settings of a service with a model of its own channels, and of one that takes any."""
    return settings if request.param == "trained" else lambda **given: settings(**{"model": "general", **given})


@pytest.fixture
def client(make: Make) -> Iterator[TestClient]:
    with TestClient(create_app(make())) as client:
        yield client


def without_name(sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in one.items() if name != "stream"} for one in sent]


def warm_up(client: TestClient, stream: str, sent: list[dict[str, Any]]) -> dict[str, Any]:
    reply = client.post(f"/v1/streams/{stream}/warm-up", json=without_name(sent))
    assert reply.status_code == 200, reply.text
    done: dict[str, Any] = reply.json()
    return done


def counted(client: TestClient, name: str) -> float:
    return sum(float(line.split()[-1]) for line in client.get("/metrics").text.splitlines() if line.startswith(name))


def test_after_a_warm_up_a_stream_stands_where_it_would_had_it_sent_live(client: TestClient) -> None:
    """Longer than the history, and than what is scored in one go; the channels of some readings are missing."""
    sent = fault("live", 1300)
    for one in sent[:700]:
        one["values"].pop("flow")
    post(client, sent[:1200])
    with capture_logs() as logged:
        done = warm_up(client, "past", sent[:1200])
    assert (done["sent"], done["taken"], done["first_refused"]) == (1200, 1200, None)
    assert done["stream"]["readings"] == 1200
    assert known(client, "past") == known(client, "live")
    assert same_state(exported(client, "past"), exported(client, "live"))
    assert [one["stream"] for one in client.get("/v1/incidents").json()["incidents"]] == ["live"]
    assert [line for line in logged if line["event"].startswith("anomaly")] == []
    assert answers(post(client, [{**one, "stream": "past"} for one in sent[1200:]])) == answers(
        post(client, sent[1200:])
    )


def test_it_is_counted_by_itself_and_alerts_nobody(client: TestClient) -> None:
    warm_up(client, "past", fault("past", 100))
    assert counted(client, "gatewatch_past_readings_total") == 100
    assert counted(client, "gatewatch_readings_total") == 0
    assert counted(client, "gatewatch_alerts_total") == 0
    assert counted(client, "gatewatch_score_count") == 0


def test_a_stream_that_has_readings_goes_on_and_what_is_older_is_late(client: TestClient) -> None:
    sent = readings("pump", 400)
    post(client, sent[200:220])
    done = warm_up(client, "pump", [*sent[:200], *sent[210:300]])
    assert {name: done[name] for name in ("sent", "taken", "replayed", "late")} == {
        "sent": 290, "taken": 80, "replayed": 10, "late": 200,
    }  # fmt: skip
    assert done["first_refused"].startswith("reading 0: late: older than what the stream has seen")
    again = warm_up(client, "pump", sent[290:300])
    assert (again["taken"], again["replayed"]) == (0, 10)
    assert known(client, "pump")["readings"] == 100


def test_an_incident_that_was_open_ends_in_the_past_and_no_other_begins(client: TestClient) -> None:
    sent = fault("pump", 400)
    for one in sent[320:323]:
        one["values"] = {"pressure": 900.0, "flow": 3.0}
    post(client, sent[:62])
    assert warm_up(client, "pump", sent[62:322])["taken"] == 260
    (one,) = client.get("/v1/incidents").json()["incidents"]
    assert (one["id"], one["state"]) == ("60.pump", "ended")
    post(client, sent[322:])
    (same,) = client.get("/v1/incidents").json()["incidents"]
    assert same == one


def test_one_bad_reading_of_the_past_never_fails_the_others(client: TestClient) -> None:
    sent = without_name(readings("pump", 6))
    sent[1]["values"] = {"pressure": "high"}
    sent[2]["stream"] = "fan"
    sent[3] |= {"seq": sent[4]["seq"], "values": {"pressure": 1.0, "flow": 1.0}}
    done = client.post("/v1/streams/pump/warm-up", json=sent).json()
    assert (done["taken"], done["conflict"], done["rejected"]) == (3, 1, 2)
    assert done["first_refused"].startswith("reading 1: rejected: ")
    lines = "\n".join(map(json.dumps, without_name(readings("pump", 8)[6:])))
    headers = {"content-type": "application/x-ndjson"}
    assert client.post("/v1/streams/pump/warm-up", content=lines, headers=headers).json()["taken"] == 2


def test_a_late_reading_of_the_past_takes_its_place_in_the_window_and_alerts_nobody(client: TestClient) -> None:
    sent = fault("pump", 120)
    for name in ("pump", "live"):
        client.put(f"/v1/streams/{name}", json={"reorder_window_s": 3600})
        post(client, [{**one, "stream": name} for one in sent[:50]])
    with capture_logs() as logged:
        warm_up(client, "pump", [*sent[50:60], *sent[61:]])
        assert warm_up(client, "pump", sent[60:61])["taken"] == 1
    assert [line for line in logged if line["event"].startswith("anomaly")] == []
    assert client.get("/v1/incidents").json()["incidents"] == []
    post(client, [{**one, "stream": "live"} for one in sent[50:]])
    assert known(client, "pump")["tag"] == known(client, "live")["tag"]


def test_a_live_reading_in_the_middle_of_a_warm_up_is_in_its_order(client: TestClient, make: Make) -> None:
    """What is then older than it is late: the stream has seen a later one."""
    sent = readings("pump", 1601)
    with TestClient(create_app(make())) as other:
        done: list[dict[str, Any]] = []
        thread = threading.Thread(target=lambda: done.append(warm_up(client, "pump", sent[:1600])))
        assert other.get("/v1/streams/pump").status_code == 404  # the route's model is built here, in one thread
        thread.start()
        while thread.is_alive() and other.get("/v1/streams/pump").status_code == 404:
            time.sleep(0.001)
        assert post(other, sent[1600:])[0]["status"] in ("warming_up", "normal", "anomalous")
        thread.join()
    assert done[0]["taken"] + done[0]["late"] == 1600
    told = known(client, "pump")
    assert (told["last_seq"], told["readings"]) == (1600, done[0]["taken"] + 1)
    applied = [*sent[: done[0]["taken"]], sent[1600]]
    post(client, [{**one, "stream": "twin"} for one in applied])
    assert known(client, "twin")["tag"] == told["tag"]


@contextmanager
def hung(url: str) -> Iterator[None]:
    with redis.Redis.from_url(url) as database:
        pid = int(database.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_redis_gone_in_the_middle_of_a_warm_up_says_how_far_it_came_and_the_rest_goes_on(
    make: Make, tmp_path: Path
) -> None:
    sent = readings("pump", 2000)
    with (
        start_private_redis(tmp_path / "own") as private,
        TestClient(create_app(make(redis_url=private.url, store_timeout_ms=300))) as client,
    ):
        replies: list[Any] = []
        path = "/v1/streams/pump/warm-up"
        thread = threading.Thread(target=lambda: replies.append(client.post(path, json=without_name(sent))))
        thread.start()
        while client.get("/v1/streams/pump").status_code != 200:
            time.sleep(0.001)
        file = exported(client, "pump")
        with hung(private.url):
            thread.join()
            (reply,) = replies
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
            assert " of 2000 readings were looked at, " in reply.json()["detail"]
            assert client.get("/v1/streams/pump/state").status_code == 503
            assert put(client, "pump", file).status_code == 503
            assert client.post("/v1/streams/pump/snapshots", json={"name": "a"}).status_code == 503
            assert client.post("/v1/streams/pump/reset?what=state").status_code == 503
            assert client.post("/v1/readings?dry_run=true", json=sent[:1]).status_code == 503
        again = warm_up(client, "pump", sent)
        assert 0 < again["taken"] < 2000
        assert again["taken"] + again["late"] + again["replayed"] == 2000
        post(client, [{**one, "stream": "twin"} for one in sent])
        assert known(client, "twin")["tag"] == known(client, "pump")["tag"]


def counts(exposed: str, name: str) -> list[str]:
    return [line for line in exposed.splitlines() if line.startswith(f"gatewatch_{name}_")]


def tried(client: TestClient, sent: list[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
    reply = client.post("/v1/readings", params={"dry_run": "true"}, json=sent, **more)
    assert reply.status_code == 200, reply.text
    results: list[dict[str, Any]] = reply.json()
    return results


@pytest.mark.parametrize("window", [0, 3600])
def test_a_dry_run_answers_as_in_earnest_and_moves_nothing(client: TestClient, redis_url: str, window: float) -> None:
    """New streams, streams that go on, repeats, conflicts, late ones, a fault, and what is no reading."""
    client.put("/v1/streams/pump", json={"reorder_window_s": window})
    begun = fault("pump", 250)
    post(client, [*begun[:40], *begun[41:50]])
    sent = [
        *begun[45:200],
        begun[40],
        {**begun[3], "values": {"flow": 9.0}},
        {"stream": "fan", "values": True},
        *readings("fan", 40),
        {**readings("fan", 1)[0], "seq": 7, "timestamp": 1_700_900_000},
    ]
    with redis.Redis.from_url(redis_url) as database:

        def everything() -> dict[bytes, Any]:
            return {
                key: database.dump(key)
                for key in database.scan_iter("gatewatch:*")
                if not key.endswith((b":barrier", b":due", b":watched"))
            }

        before, told = everything(), client.get("/metrics").text
        with capture_logs() as logged:
            once, twice = tried(client, sent), tried(client, sent)
        assert once == twice
        assert everything() == before
    for name in ("readings", "score", "alerts", "replays", "rejected", "corrections"):
        assert counts(client.get("/metrics").text, name) == counts(told, name)
    assert [line for line in logged if line["event"].startswith("anomaly")] == []
    earnest = post(client, sent)
    if window:  # in earnest it depends on how soon the correction comes, beside the batches
        assert once[155]["corrected"]
    else:
        assert once == earnest
    assert {"anomalous", "conflict", "rejected"} <= {one["status"] for one in once}


def test_a_dry_run_begins_no_stream_and_learns_no_channel(settings: Make) -> None:
    with TestClient(create_app(settings(model="general", streams=1))) as client:
        post(client, readings("pump", 40))
        sent = [{**readings("pump", 41)[40], "values": {"pressure": 3.0, "rpm": 5.0}}, *readings("new", 1)]
        grown, refused = tried(client, sent)
        assert list(grown["expected"]) == ["pressure", "flow", "rpm"]
        assert "the tenant has 1 already" in refused["error"]
        assert known(client, "pump")["channels"] == ["pressure", "flow"]
        assert post(client, readings("pump", 41)[40:])[0]["expected"].keys() == {"pressure", "flow"}


def test_a_dry_run_of_one_stream_and_in_lines_is_answered_in_lines(client: TestClient) -> None:
    lines = "\n".join(map(json.dumps, without_name(readings("pump", 3))))
    headers = {"content-type": "application/x-ndjson"}
    reply = client.post("/v1/streams/pump/readings?dry_run=1", content=lines, headers=headers)
    assert [json.loads(line)["seq"] for line in reply.text.splitlines()] == [0, 1, 2]
    assert client.get("/v1/streams/pump").status_code == 404
    assert client.post("/v1/readings?dry_run=perhaps", json=readings("pump", 1)).status_code == 422


def test_a_warm_up_beyond_what_may_wait_or_what_a_tenant_may_send_gets_429(make: Make) -> None:
    with TestClient(create_app(make(waiting_readings=600, tenant_readings_per_s=400))) as client:
        replies: list[Any] = []

        def send(stream: str) -> None:
            sent = without_name(readings(stream, 590))
            replies.append(client.post(f"/v1/streams/{stream}/warm-up", json=sent))

        threads = [threading.Thread(target=send, args=(f"s{at}",)) for at in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = [reply for reply in replies if reply.status_code == 429]
        assert {reply.status_code for reply in replies} == {200, 429}
        assert all("retry-after" in reply.headers for reply in refused)
