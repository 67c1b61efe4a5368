"""A stream whose budget is held: its factor follows its alerts, is seen, and is the same however its readings come."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from gatewatch.models.artefact.files import load_artefact
from gatewatch.models.detectors.budget_loop import GAIN, LEAST, MOST
from gatewatch.service.app import create_app
from gatewatch.service.proofs import file
from gatewatch.service.proofs.verifying import verify
from gatewatch.service.settings import Settings
from tests.support.samples import post, readings
from tests.support.scorer import state_key

EVERY, FAULT, FIRST = 220, 4, 60
"""Readings between two faults, of a fault, and before the first one."""

HELD = {"hold_budget": True, "alerts_per_week": 2.0}
RATE = GAIN * 2.0 / (7 * 24 * 60)
"""How much the level rises with a reading a minute."""


def faulty(stream: str, faults: int = 3) -> list[dict[str, Any]]:
    sent = readings(stream, FIRST + faults * EVERY, seed=5)
    for start in range(FIRST, len(sent), EVERY):
        for one in sent[start : start + FAULT]:
            one["values"] = {**one["values"], "pressure": 20.0}
    return sent


def hold(client: TestClient, **more: Any) -> None:
    reply = client.put("/v1/policies", json={"policies": [{"pattern": "*", **HELD, **more}]})
    assert reply.status_code == 200, reply.text


def in_parts(client: TestClient, sent: Sequence[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    return [one for start in range(0, len(sent), size) for one in post(client, list(sent[start : start + size]))]


def known(client: TestClient, stream: str) -> dict[str, Any]:
    reply = client.get(f"/v1/streams/{stream}")
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def level(client: TestClient, stream: str) -> float:
    return math.log(known(client, stream)["factor"])


def incidents(client: TestClient, stream: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/v1/incidents", params={"stream": stream}).json()["incidents"]
    return found


def said(results: Sequence[dict[str, Any]]) -> list[Any]:
    return [(one["score"], one["status"], one["attribution"]) for one in results]


def test_each_alert_lowers_the_factor_and_time_raises_it(client: TestClient) -> None:
    hold(client)
    sent = faulty("pump")
    post(client, sent[: FIRST + FAULT])
    before = level(client, "pump")
    assert before == pytest.approx(-GAIN + RATE * FIRST, abs=6 * RATE)
    post(client, sent[FIRST + FAULT : FIRST + EVERY])
    assert level(client, "pump") == pytest.approx(before + RATE * (EVERY - FAULT))
    post(client, sent[FIRST + EVERY :])
    assert len(incidents(client, "pump")) == 3
    assert level(client, "pump") == pytest.approx(-3 * GAIN + RATE * len(sent), abs=10 * RATE)


def test_the_score_is_that_without_the_loop_times_the_factor(client: TestClient) -> None:
    plain = post(client, faulty("plain"))
    hold(client)
    held = post(client, faulty("held"))
    pairs = [(one["score"], other["score"]) for one, other in zip(plain, held, strict=True) if one["score"] > 1.2]
    assert len(pairs) > 6
    steps = {round(math.log(other / one) / GAIN) for one, other in pairs}
    assert steps == {0, -1, -2, -3}
    assert "factor" not in known(client, "plain")


@pytest.mark.parametrize("size", [1, 7])
def test_it_is_the_same_one_by_one_and_at_once_and_sent_again(client: TestClient, size: int) -> None:
    hold(client)
    whole, parted = post(client, faulty("whole", 2)), in_parts(client, faulty("parted", 2)[:340], size)
    parted += post(client, faulty("parted", 2)[340:])
    assert said(whole) == said(parted)
    again = post(client, faulty("parted", 2)[-50:])
    assert all(one["replayed"] for one in again)
    assert known(client, "parted")["factor"] == known(client, "whole")["factor"]
    assert known(client, "parted")["tag"] == known(client, "whole")["tag"]


def test_two_processes_move_one_factor(client: TestClient, settings: Callable[..., Settings]) -> None:
    hold(client)
    alone, sent = post(client, faulty("alone", 2)), faulty("shared", 2)
    with TestClient(create_app(settings())) as other:
        shared = []
        for at in range(0, len(sent), 30):
            shared += post((client, other)[at // 30 % 2], sent[at : at + 30])
        assert said(shared) == said(alone)
        assert known(other, "shared")["factor"] == known(client, "alone")["factor"]


def test_late_readings_in_their_place_leave_the_factor_as_if_they_had_come_in_time(client: TestClient) -> None:
    hold(client)
    assert client.put("/v1/streams/late", json={"reorder_window_s": 600}).status_code == 200
    in_order, sent = post(client, faulty("sorted", 2)), faulty("late", 2)
    late = range(1, len(sent) - 5, 5)
    for start in range(0, len(sent), 8):
        some = range(start, min(start + 8, len(sent)))
        post(client, [sent[at] for at in some if at not in late])
        post(client, [sent[at] for at in some if at in late])
    assert known(client, "late")["tag"] == known(client, "sorted")["tag"]
    assert known(client, "late")["factor"] == known(client, "sorted")["factor"]
    history = client.get("/v1/streams/late/history").json()
    assert said([one["result"] for one in history]) == said(in_order[-len(history) :])


def test_a_record_that_is_lost_is_rebuilt_with_what_the_history_says_of_its_factor(
    client: TestClient, settings: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    hold(client)
    sent = faulty("lost", 2)[: FIRST + FAULT + 40]
    whole = post(client, [{**one, "stream": "whole"} for one in sent])
    post(client, sent[:-20])
    with Redis.from_url(redis_url) as store:
        assert store.delete(state_key(tenant, "lost"))
    with TestClient(create_app(settings())) as anew:  # of which no record is in the cache
        rest = post(anew, sent[-20:])
    assert said(rest) == said(whole[-20:])
    assert known(client, "lost")["factor"] == pytest.approx(known(client, "whole")["factor"])


def test_a_state_that_is_exported_carries_its_factor(client: TestClient) -> None:
    hold(client)
    sent = faulty("from", 2)
    post(client, sent[: FIRST + EVERY])
    state = client.get("/v1/streams/from/state").content
    assert client.put("/v1/streams/to/state", params={"as": "new"}, content=state).status_code == 200
    assert known(client, "to")["factor"] == known(client, "from")["factor"]
    rest = sent[FIRST + EVERY :]
    assert said(post(client, rest)) == said(post(client, [{**one, "stream": "to"} for one in rest]))


def test_an_incident_is_proved_with_the_factor_that_it_had(client: TestClient, artefact: Path, tmp_path: Path) -> None:
    hold(client)
    in_parts(client, faulty("pump", 2), 50)
    latest = incidents(client, "pump")[0]
    reply = client.get(f"/v1/incidents/{latest['id']}/proof")
    assert reply.status_code == 200, reply.text
    assert reply.json()["proof"]["asked"]["held"] == 2.0
    file.write(tmp_path / "proof", reply.json(), artefact)
    verdict = verify(file.read(tmp_path / "proof"), load_artefact(artefact))
    assert (verdict.to_the_bit, verdict.difference) == (True, None)


def test_where_the_budget_is_held_no_more_nothing_of_the_factor_stays(
    client: TestClient, redis_url: str, tenant: str
) -> None:
    hold(client)
    sent = faulty("pump", 2)
    post(client, sent[:-10])
    post(client, [{**one, "stream": "plain"} for one in sent[:1]])
    assert client.put("/v1/policies", json={"policies": []}).status_code == 200
    post(client, sent[-10:])
    post(client, [{**one, "stream": "plain"} for one in sent[1:]])
    assert "factor" not in known(client, "pump")
    with Redis.from_url(redis_url) as store:
        one, other = (store.strlen(state_key(tenant, stream)) for stream in ("pump", "plain"))
    assert one == other


def test_what_a_label_made_quiet_does_not_count(client: TestClient) -> None:
    hold(client)
    sent = faulty("pump", 4)
    post(client, sent[: FIRST + EVERY])
    (first,) = incidents(client, "pump")
    client.post(f"/v1/incidents/{first['id']}/label", json={"label": "false_alarm"}).raise_for_status()
    results = post(client, sent[FIRST + EVERY :])
    quiet = [one for one in results if one.get("gate") == "label"]
    assert len(quiet) > 6
    post(client, faulty("without", 4))
    assert level(client, "without") == pytest.approx(-4 * GAIN + RATE * len(sent), abs=12 * RATE)
    assert level(client, "pump") >= level(client, "without") + 2 * GAIN


def test_what_is_like_a_true_alarm_is_never_held_back(client: TestClient) -> None:
    hold(client)
    sent = faulty("pump", 4)
    post(client, sent[: FIRST + 2 * EVERY])
    latest = incidents(client, "pump")[0]
    assert client.post(f"/v1/incidents/{latest['id']}/label", json={"label": "true"}).json()["quiet"] == []
    (fault,) = client.get("/v1/streams/pump/policy").json()["asked"]["faults"]
    assert fault["incident"] == latest["id"]
    assert fault["factor"] == pytest.approx(math.exp(-GAIN) / latest["peak_score"], rel=0.01)
    barely = {**fault, "factor": 0.97}  # as of one that was barely strange
    client.put("/v1/streams/pump/policy", json={"faults": [barely]}).raise_for_status()
    post(client, sent[FIRST + 2 * EVERY :][:1])
    assert known(client, "pump")["factor"] == pytest.approx(0.97)
    client.put("/v1/streams/pump/policy", json={"tags": {"site": "north"}}).raise_for_status()
    assert client.get("/v1/streams/pump/policy").json()["asked"]["faults"] == [barely]
    client.post(f"/v1/incidents/{latest['id']}/label", json={"label": "expected"}).raise_for_status()
    assert client.get("/v1/streams/pump/policy").json()["asked"] == {"tags": {"site": "north"}}


def test_a_limit_is_told_whatever_the_factor_is(client: TestClient) -> None:
    hold(client, gates=[{"channel": "pressure", "high": 15.0}], sensitivity=0.05)
    results = post(client, faulty("pump", 1))
    assert max(one["score"] for one in results) < 1
    assert [one["reason"] for one in incidents(client, "pump")] == ["limit"]
    assert level(client, "pump") > 0


def test_a_factor_at_its_bound_is_counted_and_larger_moves_are_logged(client: TestClient) -> None:
    hold(client, alerts_per_week=10_000.0)
    sent = faulty("pump", 1)
    with capture_logs() as logs:
        post(client, sent[: FIRST - 1])
    assert known(client, "pump")["factor"] == pytest.approx(MOST)
    moved = [one for one in logs if one["event"] == "budget factor moved"]
    assert [(one["stream"], one["factor"], one["at_bound"]) for one in moved] == [("pump", MOST, True)]
    assert "gatewatch_budget_streams_at_bound 1.0" in client.get("/metrics").text
    hold(client, alerts_per_week=0.001)
    post(client, sent[FIRST - 1 :])
    assert LEAST < known(client, "pump")["factor"] < MOST
    assert "gatewatch_budget_streams_at_bound 0.0" in client.get("/metrics").text


def at_bound(client: TestClient) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("gatewatch_budget_streams_at_bound ")))


def test_a_stream_whose_loop_is_gone_is_at_no_bound(client: TestClient) -> None:
    """The policy was taken away, the stream begun anew, or gone back to an earlier state."""
    sent = faulty("pump", 1)
    hold(client, alerts_per_week=10_000.0)
    for stream in ("free", "reset", "back"):
        post(client, [{**one, "stream": stream} for one in sent[:2]])
    client.post("/v1/streams/back/snapshots", json={"name": "before"}).raise_for_status()
    for stream in ("free", "reset", "back"):
        post(client, [{**one, "stream": stream} for one in sent[2 : FIRST - 1]])
    assert at_bound(client) == 3
    client.post("/v1/streams/reset/reset", params={"what": "state"}).raise_for_status()
    client.post("/v1/streams/back/snapshots/before/rollback").raise_for_status()
    assert at_bound(client) == 1
    assert client.put("/v1/policies", json={"policies": []}).status_code == 200
    post(client, [{**one, "stream": "free"} for one in sent[FIRST - 1 : FIRST]])
    assert at_bound(client) == 0


def labelled_true(client: TestClient) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Readings of `pump` with two faults, sent to the end of the first; that is labelled true, and kept as returned."""
    hold(client)
    sent = faulty("pump", 2)
    post(client, sent[: FIRST + EVERY])
    (first,) = incidents(client, "pump")
    client.post(f"/v1/incidents/{first['id']}/label", json={"label": "true"}).raise_for_status()
    (fault,) = client.get("/v1/streams/pump/policy").json()["asked"]["faults"]
    return sent, fault


def test_a_stream_without_a_loop_is_at_no_bound_beside_one_that_has_one(client: TestClient) -> None:
    """What was labelled true would be the bound of its factor, had it one."""
    sent, fault = labelled_true(client)
    own = {"hold_budget": False, "faults": [{**fault, "factor": 1.0}]}
    client.put("/v1/streams/pump/policy", json=own).raise_for_status()
    post(client, [*sent[FIRST + EVERY :][:5], *faulty("other", 1)[:5]])
    post(client, [*sent[FIRST + EVERY :][5:10], *faulty("other", 1)[5:10]])
    assert at_bound(client) == 0


def test_a_stream_whose_loop_is_gone_while_a_factor_of_1_was_its_bound_is_at_none(client: TestClient) -> None:
    sent, fault = labelled_true(client)
    own = {"faults": [{**fault, "factor": 1.0}]}
    client.put("/v1/streams/pump/policy", json=own).raise_for_status()
    results = post(client, [{**one, "stream": "pump"} for one in sent[FIRST + EVERY :][:1]])
    assert [one["status"] for one in results] == ["anomalous"]
    assert at_bound(client) == 1
    client.put("/v1/streams/pump/policy", json={"hold_budget": False, **own}).raise_for_status()
    post(client, sent[FIRST + EVERY + 1 :][:1])
    assert at_bound(client) == 0


def test_a_loop_without_alerts_a_week_does_nothing_and_with_a_rate_is_refused(client: TestClient) -> None:
    client.put("/v1/policies", json={"policies": [{"pattern": "*", "hold_budget": True}]}).raise_for_status()
    post(client, faulty("pump", 1))
    assert "factor" not in known(client, "pump")
    wrong = {"pattern": "*", "hold_budget": True, "false_alarm_rate": 0.01}
    reply = client.put("/v1/policies", json={"policies": [wrong]})
    assert reply.status_code == 422
    assert "hold_budget" in reply.text


def test_a_stream_of_the_general_model_keeps_its_factor_when_a_channel_joins(redis_url: str, tenant: str) -> None:
    """It is carried over with the state, and not begun anew."""
    with TestClient(create_app(Settings(redis_url=redis_url, tenant=tenant, log_level="error"))) as client:
        hold(client, alerts_per_week=2000.0)
        sent = readings("any", 120)
        for one in sent[:110]:
            del one["values"]["flow"]
        post(client, sent[:110])
        before = level(client, "any")
        assert before == pytest.approx(math.log(MOST))
        post(client, sent[110:112])
        assert known(client, "any")["channels"] == ["pressure", "flow"]
        assert level(client, "any") == before


def test_so_does_one_that_is_rebuilt_from_a_history_in_which_a_channel_joined(redis_url: str, tenant: str) -> None:
    """Its readings are judged with the factor that they were judged with."""
    sent = faulty("any", 1)[: FIRST + 50]
    for one in sent[: FIRST + 40]:
        del one["values"]["flow"]
    with TestClient(create_app(Settings(redis_url=redis_url, tenant=tenant, log_level="error"))) as client:
        hold(client)
        post(client, sent)
        before = known(client, "any")
        assert before["factor"] < 0.91
        with Redis.from_url(redis_url) as store:
            assert store.delete(state_key(tenant, "any"))
        after = known(client, "any")
    assert after["factor"] == pytest.approx(before["factor"])
    assert after["score"] == pytest.approx(before["score"])
