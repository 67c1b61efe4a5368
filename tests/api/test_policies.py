"""Policies over HTTP and by command: they count at once, in every process, and after a restart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.settings import Settings
from tests.support.cli import gatewatch
from tests.support.samples import post, readings
from tests.support.scorer import state_key
from tests.support.waiting import PATIENCE_S
from tests.support.whole_path import serving

Make = Callable[..., Settings]


@pytest.fixture
def service(settings: Make) -> Iterator[TestClient]:
    with TestClient(create_app(settings())) as client:
        yield client


def with_a_fault(stream: str) -> list[dict[str, Any]]:
    sent = readings(stream, 140, seed=3)
    for reading in sent[120:]:
        reading["values"]["pressure"] = 40.0
    return sent


def test_sensitivity_scales_scores_and_what_follows_from_them(service: TestClient) -> None:
    asked = {"policies": [{"pattern": "deaf-*", "sensitivity": 0.05}, {"pattern": "keen-*", "sensitivity": 4}]}
    assert service.put("/v1/policies", json=asked).status_code == 200
    plain, deaf, keen = (post(service, with_a_fault(name)) for name in ("plain", "deaf-1", "keen-1"))
    judged = [at for at, one in enumerate(plain) if one["status"] == "anomalous" and one["score"] > 1]
    assert judged
    for at in judged:
        assert keen[at]["score"] == pytest.approx(4 * plain[at]["score"], rel=1e-6)
        assert deaf[at]["score"] == pytest.approx(0.05 * plain[at]["score"], rel=1e-6)
    assert all((one["status"] == "anomalous") == (one["score"] > 1) for one in keen if one["status"] != "warming_up")
    begun = {one["stream"] for one in service.get("/v1/incidents").json()["incidents"]}
    assert begun == {"plain", "keen-1"} | ({"deaf-1"} if any(one["score"] > 1 for one in deaf[60:]) else set())


def test_a_policy_of_one_stream_is_taken_and_given_up(service: TestClient) -> None:
    at = "/v1/streams/pump-7/policy"
    assert service.get(at).json() == {"stream": "pump-7", "asked": {}, "policy": {}}
    service.put("/v1/policies", json={"policies": [{"pattern": "pump-*", "tags": {"site": "north"}}]})
    put = service.put(at, json={"sensitivity": 0.5})
    assert put.json() == {
        "stream": "pump-7", "asked": {"sensitivity": 0.5}, "policy": {"tags": {"site": "north"}, "sensitivity": 0.5},
    }  # fmt: skip
    assert service.get("/v1/policies").json()["streams"] == {"pump-7": {"sensitivity": 0.5}}
    assert service.put(at, json={}).json()["policy"] == {"tags": {"site": "north"}}
    assert service.get("/v1/policies").json()["streams"] == {}


def test_a_default_that_is_said_is_another_policy_than_none(service: TestClient) -> None:
    for said in ({}, {"muted": False}, {}):
        policies = [{"pattern": "*", "muted": True}, {"pattern": "p*", **said}]
        service.put("/v1/policies", json={"policies": policies}).raise_for_status()
        assert service.get("/v1/policies").json()["policies"] == policies
    service.put("/v1/streams/alone/policy", json={"muted": False}).raise_for_status()
    assert service.get("/v1/streams/alone/policy").json()["asked"] == {"muted": False}


def test_of_two_changes_at_once_the_second_is_told(service: TestClient) -> None:
    tag = service.get("/v1/policies").headers["etag"]
    first = service.put("/v1/policies", json={"policies": [{"pattern": "a*"}]}, headers={"if-match": tag})
    assert first.status_code == 200
    second = service.put("/v1/policies", json={"policies": [{"pattern": "b*"}]}, headers={"if-match": tag})
    assert second.status_code == 412
    assert "number 1 by now, not 0" in second.json()["detail"]
    assert service.get("/v1/policies").json()["policies"] == [{"pattern": "a*"}]


def test_another_process_and_one_begun_later_go_by_a_change(settings: Make) -> None:
    asked = {"policies": [{"pattern": "*", "sensitivity": 3}]}
    with TestClient(create_app(settings())) as one, TestClient(create_app(settings())) as other:
        before = post(other, with_a_fault("a"))
        assert one.put("/v1/policies", json=asked).status_code == 200
        deadline = time.monotonic() + PATIENCE_S
        while {known.number for known in other.app.state.parts.policies._known.values()} != {1}:  # type: ignore[attr-defined]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        after = post(other, with_a_fault("b"))
    with TestClient(create_app(settings())) as later:
        again = post(later, with_a_fault("c"))
    scores = [[result["score"] for result in of] for of in (before, after, again)]
    assert scores[1] == scores[2] != scores[0]


def test_the_command_shows_sets_and_replaces_policies(tmp_path: Path) -> None:
    with serving(None, tmp_path) as (url, _):
        done = gatewatch("policies", "set", "pump-*", "tags.site=7", "sensitivity=0.5", "--url", url)
        assert done.returncode == 0, done.stderr
        assert '"site": "7"' in done.stdout
        gatewatch("policies", "set", "pump-7", "sensitivity=2", "--stream", "--url", url)
        shown = gatewatch("policies", "show", "pump-7", "--url", url).stdout
        assert '"sensitivity": 2' in shown
        kept = tmp_path / "policies.json"
        kept.write_text(gatewatch("policies", "show", "--url", url).stdout)
        done = gatewatch("policies", "set", "pump-*", "tags.site=", "sensitivity=", "--url", url)
        assert done.stdout == "nothing is asked of pump-* any more\n"
        done = gatewatch("policies", "put", str(kept), "--url", url)
        assert done.stdout == "1 patterns and 1 streams have policies (number 4)\n", done
        for given, told in (("sensitivity=loud", "sensitivity"), ("nothing", "expected name=value")):
            done = gatewatch("policies", "set", "*", given, "--url", url)
            assert done.returncode == 2
            assert told in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1


def test_an_ignored_channel_raises_nothing_and_keeps_its_values(service: TestClient) -> None:
    service.put("/v1/streams/a/policy", json={"ignore": ["press*"]})
    results = post(service, with_a_fault("a"))
    assert {one["status"] for one in results} == {"warming_up", "normal"}
    assert [one["values"]["pressure"] for one in service.get("/v1/streams/a/history").json()[-3:]] == [40.0] * 3


def test_a_lost_state_is_rebuilt_by_what_is_asked(service: TestClient, redis_url: str, tenant: str) -> None:
    service.put("/v1/policies", json={"policies": [{"pattern": "*", "sensitivity": 3, "ignore": ["flow"]}]})
    whole = post(service, with_a_fault("whole"))
    post(service, with_a_fault("lost")[:100])
    with redis.Redis.from_url(redis_url) as client:
        assert client.delete(state_key(tenant, "lost"))
    lost = post(service, with_a_fault("lost")[100:])
    assert service.get("/v1/streams/lost").json()["readings"] == 140
    told = [[(one["score"], one["status"]) for one in of] for of in (whole[100:], lost)]
    assert told[0] == told[1]
