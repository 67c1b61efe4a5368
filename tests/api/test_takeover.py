"""A stream outlives its models: takeovers of other models, senders that count anew, readings of one time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.errors import StoreUnavailable
from gatewatch.service.settings import Settings
from gatewatch.service.storage.keys import Keys
from gatewatch.service.storage.store import StateStore
from tests.support.samples import CHANNELS, START_MS, make_artefact, post, readings
from tests.support.scorer import state_key
from tests.support.takeover import GENERAL, known

Make = Callable[..., Settings]


@pytest.fixture
def other(tmp_path: Path) -> str:
    return str(make_artefact(tmp_path / "other", seed=1))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, GENERAL),
        (GENERAL, {}),
        (GENERAL, {**GENERAL, "channels": CHANNELS[::-1]}),
        (GENERAL, {**GENERAL, "channels": ("flow", "speed", "pressure")}),
        ({**GENERAL, "channels": (*CHANNELS, "speed")}, {}),
    ],
    ids=["trained to general", "general to trained", "another order", "a channel more", "a channel fewer"],
)
def test_a_takeover_loses_nothing_and_applies_nothing_anew(
    settings: Make, before: dict[str, Any], after: dict[str, Any]
) -> None:
    sent = readings("s", 60)
    with TestClient(create_app(settings(**before))) as client:
        first, tag = post(client, sent[:40]), known(client, "s")["tag"]
        entries = client.get("/v1/streams/s/history").json()
    with TestClient(create_app(settings(**after))) as client:
        assert (known(client, "s")["readings"], known(client, "s")["tag"]) == (40, tag)
        assert post(client, sent[20:40]) == [{**result, "replayed": True} for result in first[20:40]]
        results = post(client, sent[38:60])
        assert [r["replayed"] for r in results] == [True] * 2 + [False] * 20
        kept = client.get("/v1/streams/s/history").json()
        assert [entry["result"] for entry in kept[:40]] == [entry["result"] for entry in entries]
        assert all(
            entry["values"].items() <= late["values"].items() for entry, late in zip(entries, kept, strict=False)
        )
        post(client, [{**reading, "stream": "undisturbed"} for reading in sent])
        assert known(client, "s")["tag"] == known(client, "undisturbed")["tag"]
        assert known(client, "s")["readings"] == 60


def test_the_general_model_keeps_what_it_learned_of_a_channel_whatever_its_place(settings: Make) -> None:
    sent = readings("s", 120)
    with TestClient(create_app(settings(**GENERAL))) as client:
        post(client, sent[:100])
        post(client, [{**reading, "stream": "undisturbed"} for reading in sent[:100]])
        expected = post(client, [{**reading, "stream": "undisturbed"} for reading in sent[100:]])
    with TestClient(create_app(settings(**{**GENERAL, "channels": CHANNELS[::-1]}))) as client:
        results = post(client, sent[100:])
    assert [r["score"] for r in results] == pytest.approx([r["score"] for r in expected], rel=1e-5)


def test_rolling_back_is_a_takeover_too(settings: Make, other: str) -> None:
    sent = readings("s", 60)
    with TestClient(create_app(settings())) as client:
        post(client, sent[:20])
    with TestClient(create_app(settings(model=other))) as client:
        post(client, sent[20:40])
        assert "gatewatch_takeover 2.0" in client.get("/metrics").text
    with TestClient(create_app(settings())) as client:
        assert {r["status"] for r in post(client, sent[40:])} <= {"normal", "anomalous"}
        assert known(client, "s")["readings"] == 60
        assert "gatewatch_takeover 3.0" in client.get("/metrics").text


def test_a_process_with_a_lower_number_stops_scoring_and_is_not_ready(settings: Make, other: str) -> None:
    sent = readings("s", 30)
    with TestClient(create_app(settings())) as old:
        post(old, sent[:10])
        assert old.get("/readyz").status_code == 200
        with TestClient(create_app(settings(model=other))) as new:
            post(new, sent[10:20])
            reply = old.post("/v1/readings", json=sent[20:])
            assert reply.status_code == 503
            assert "has taken over" in reply.json()["detail"]
            assert old.get("/readyz").status_code == 503
            assert old.get("/livez").status_code == 200
            assert known(old, "s") == known(new, "s")
            assert "gatewatch_takeover 0.0" in old.get("/metrics").text
            assert {r["replayed"] for r in post(new, sent[10:20])} == {True}
            post(new, sent[20:])
            assert known(new, "s")["readings"] == 30


def test_a_number_that_redis_lost_is_told_again_by_who_has_the_highest(
    settings: Make, other: str, redis_url: str, tenant: str
) -> None:
    key = Keys(tenant, 1).takeover.decode()
    with (
        TestClient(create_app(settings())) as old,
        TestClient(create_app(settings(model=other))) as new,
        redis.Redis.from_url(redis_url) as database,
    ):
        assert [client.get("/readyz").status_code for client in (old, new)] == [503, 200]
        database.delete(key)
        assert [client.get("/readyz").status_code for client in (old, new)] == [503, 200]
        assert database.hget(key, "number") == b"2"
        assert old.get("/readyz").status_code == 503


def test_a_foreign_value_where_the_number_stands_is_a_warning_to_who_has_one(
    settings: Make, redis_url: str, tenant: str
) -> None:
    key = Keys(tenant, 1).takeover.decode()
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:
        post(client, readings("s", 1))
        database.set(key, "of another program")
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert key in ready.json()["warnings"][0]
        assert "gatewatch_store_up 1.0" in client.get("/metrics").text
        post(client, readings("s", 2))


def test_two_services_of_one_model_have_one_number(settings: Make) -> None:
    sent = readings("s", 20)
    with TestClient(create_app(settings())) as one, TestClient(create_app(settings())) as two:
        for at, reading in enumerate(sent):
            post((one, two)[at % 2], [reading])
        assert one.get("/readyz").status_code == two.get("/readyz").status_code == 200
        assert known(one, "s")["readings"] == 20


def test_who_is_asked_for_a_stream_before_it_has_a_number_goes_on(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when Redis comes back only after the process has begun."""
    with TestClient(create_app(settings())) as client:
        post(client, readings("s", 40))

    async def away(*_: object) -> None:
        raise StoreUnavailable("Redis is away")

    app = create_app(settings())
    with monkeypatch.context() as patch:
        patch.setattr(StateStore, "claim_takeover", away)
        client = TestClient(app)
        client.__enter__()
    try:
        assert client.get("/v1/streams/s/forecast").status_code == 200
        assert [r["error"] for r in post(client, readings("s", 41)[40:])] == [None]
    finally:
        client.__exit__(None, None, None)


def test_a_sender_that_counts_anew_goes_on_at_once(settings: Make) -> None:
    sent = readings("s", 300)
    rebooted = [{**reading, "seq": at} for at, reading in enumerate(sent[200:])]
    with TestClient(create_app(settings())) as client:
        post(client, sent[:200])
        results = post(client, rebooted)
        assert not {r["status"] for r in results} & {"late", "conflict", "rejected"}
        assert not any(r["replayed"] for r in results)
        assert known(client, "s") | {"readings": 300, "last_seq": 99, "session": 1} == known(client, "s")
        again = post(client, rebooted[-20:])
        assert again == [{**result, "replayed": True} for result in results[-20:]]
        assert {r["status"] for r in post(client, sent[:100])} == {"late"}
        assert {r["replayed"] for r in post(client, sent[180:200])} == {True}
        assert known(client, "s")["readings"] == 300
        assert "gatewatch_sequences_restarted_total 1.0" in client.get("/metrics").text


def test_one_wild_number_silences_nobody(settings: Make) -> None:
    sent = readings("s", 20)
    sent[10]["seq"] = 2**53
    with TestClient(create_app(settings())) as client:
        results = post(client, sent[:11]) + post(client, sent[11:])
        assert not {r["status"] for r in results} & {"late", "conflict", "rejected"}
        assert known(client, "s")["readings"] == 20


def test_a_repeat_with_a_new_time_is_still_a_repeat(settings: Make) -> None:
    """Some senders stamp a reading anew with each try."""
    sent = readings("s", 20)
    with TestClient(create_app(settings())) as client:
        first = post(client, sent)
        again = post(
            client, [{**reading, "timestamp": START_MS / 1000 + 10_000 + at} for at, reading in enumerate(sent)]
        )
        assert again == [{**result, "replayed": True} for result in first]
        assert known(client, "s")["session"] == 0


def test_one_number_in_a_stream_that_goes_by_time_is_undone_by_the_call_that_is_named(settings: Make) -> None:
    sent = [{name: reading[name] for name in ("stream", "timestamp", "values")} for reading in readings("s", 20)]
    with TestClient(create_app(settings())) as client:
        post(client, [*sent[:10], {**sent[10], "seq": 0}])
        (refused,) = post(client, [sent[11]])
        assert refused["status"] == "rejected"
        assert "reset?what=sequence" in refused["error"]
        client.post("/v1/streams/s/reset?what=sequence")
        assert not {r["status"] for r in post(client, sent[11:])} & {"late", "conflict", "rejected"}


def test_without_times_a_call_says_that_the_sender_counts_anew(settings: Make) -> None:
    sent = [{name: reading[name] for name in ("stream", "seq", "values")} for reading in readings("s", 20)]
    with TestClient(create_app(settings())) as client:
        post(client, sent)
        other = [{**reading, "values": {"pressure": 9.0 + at, "flow": None}} for at, reading in enumerate(sent)]
        (late,) = post(client, [{**other[0], "seq": 0}])
        assert late["status"] == "conflict"
        assert "reset?what=sequence" in late["error"]
        assert client.post("/v1/streams/s/reset?what=sequence").json()["session"] == 1
        assert not {r["status"] for r in post(client, other)} & {"late", "conflict", "rejected"}
        assert known(client, "s")["readings"] == 40
        assert client.post("/v1/streams/nobody/reset?what=sequence").status_code == 404
        assert client.post("/v1/streams/s/reset?what=all").status_code == 422


def one_field_each(count: int) -> list[dict[str, Any]]:
    return [
        {"stream": "s", "timestamp": START_MS / 1000 + 60 * at, "values": {channel: 3.0 + at % 5 / 10}}
        for at in range(count)
        for channel in CHANNELS
    ]


@pytest.mark.parametrize("chunk", [1, 7, 40])
def test_channels_that_come_one_by_one_follow_each_other(settings: Make, chunk: int) -> None:
    sent = one_field_each(20)
    with TestClient(create_app(settings())) as client:
        results = [r for start in range(0, 40, chunk) for r in post(client, sent[start : start + chunk])]
        assert not {r["status"] for r in results} & {"late", "conflict", "rejected"}
        assert known(client, "s")["readings"] == 40
        assert post(client, sent) == [{**result, "replayed": True} for result in results]
        (conflict,) = post(client, [{**sent[-1], "values": {CHANNELS[-1]: 99}}])
        assert conflict["status"] == "conflict"


def test_channels_of_one_request_and_time_are_joined_where_a_stream_asks_for_it(settings: Make) -> None:
    sent = one_field_each(20)
    whole = [
        {"stream": "whole", "timestamp": sent[at]["timestamp"], "values": sent[at]["values"] | sent[at + 1]["values"]}
        for at in range(0, 40, 2)
    ]
    with TestClient(create_app(settings())) as client:
        assert client.put("/v1/streams/s", json={"same_time": "join"}).json()["same_time"] == "join"
        results, expected = post(client, sent), post(client, whole)
        assert (
            [r["score"] for r in results[::2]] == [r["score"] for r in results[1::2]] == [r["score"] for r in expected]
        )
        assert known(client, "s")["tag"] == known(client, "whole")["tag"]
        assert {r["replayed"] for r in post(client, sent)} == {True}
        assert {r["replayed"] for r in post(client, sent[-1:])} == {True}
        assert known(client, "s")["readings"] == 20


@pytest.mark.parametrize("kept", [2, 30])
def test_an_old_record_restored_beside_a_newer_history_is_noticed_and_mended(
    settings: Make, redis_url: str, tenant: str, kept: int
) -> None:
    sent = readings("s", 60)
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:
        key = state_key(tenant, "s", "state")
        post(client, sent[: 50 - kept])
        old = database.get(key)
        first = post(client, sent[50 - kept : 50])
        database.set(key, old)
    with TestClient(create_app(settings())) as client:
        assert post(client, sent[50 - kept : 50]) == [{**result, "replayed": True} for result in first]
        results = post(client, sent[50:])
        undisturbed = post(client, [{**reading, "stream": "undisturbed"} for reading in sent])[50:]
        assert [r["score"] for r in results] == [r["score"] for r in undisturbed]
        assert known(client, "s")["tag"] == known(client, "undisturbed")["tag"]
        assert 'gatewatch_states_rebuilt_total{cause="stale"} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize(
    "after",
    [{}, {"history_readings": 64}, {"channels": CHANNELS[::-1]}, {"channels": (*CHANNELS, "speed")}, {"model": None}],
    ids=["the same", "another length of the history", "another order", "a channel more", "another model"],
)
@pytest.mark.parametrize("channels", [CHANNELS, CHANNELS[::-1]])
def test_an_old_record_is_noticed_whatever_else_changed_and_keeps_the_streams_settings(
    settings: Make, redis_url: str, tenant: str, other: str, channels: tuple[str, ...], after: dict[str, Any]
) -> None:
    sent, before = readings("s", 45), {**GENERAL, "channels": channels}
    chosen = {"on_gap": "hold", "reorder_window_s": 300.0, "same_time": "join"}
    with TestClient(create_app(settings(**GENERAL))) as client:
        client.put("/v1/streams/s", json=chosen)
        post(client, sent[:10])
    with TestClient(create_app(settings(**before))) as client, redis.Redis.from_url(redis_url) as database:
        post(client, sent[10:20])
        old = database.get(state_key(tenant, "s"))
        first = post(client, sent[20:40])
        database.set(state_key(tenant, "s"), old)
    changed = {"model": other} if "model" in after else {**before, **after}
    with TestClient(create_app(settings(**changed))) as client:
        results = post(client, sent[20:])
        assert [r["replayed"] for r in results] == [True] * 20 + [False] * 5
        assert [r["score"] for r in results[:20]] == [r["score"] for r in first]
        assert known(client, "s") | {"readings": 45} | chosen == known(client, "s")


@pytest.mark.parametrize("after", [{**GENERAL, "channels": CHANNELS[::-1]}, {}], ids=["another order", "trained"])
def test_channels_of_one_time_may_come_before_and_after_a_takeover(settings: Make, after: dict[str, Any]) -> None:
    sent = one_field_each(10)
    with TestClient(create_app(settings(**GENERAL))) as client:
        post(client, sent[:19])
    with TestClient(create_app(settings(**after))) as client:
        (last,) = post(client, sent[19:])
        assert last["status"] not in ("late", "conflict")
        assert [r["replayed"] for r in post(client, sent[18:])] == [True, True]
        assert known(client, "s")["readings"] == 20


def test_what_was_applied_last_is_not_applied_again_where_history_and_model_are_gone(
    settings: Make, redis_url: str, tenant: str, other: str
) -> None:
    sent = [{**reading, "seq": None} for reading in readings("s", 10)]
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:
        post(client, sent)
        database.delete(state_key(tenant, "s", "readings"))
    with TestClient(create_app(settings(model=other))) as client:
        assert post(client, sent[-1:])[0]["status"] == "late"
        assert known(client, "s")["readings"] == 10


def test_the_history_of_another_stream_is_not_taken_for_this_ones(settings: Make, redis_url: str, tenant: str) -> None:
    others = readings("other", 30, seed=5)
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:
        post(client, readings("s", 20))
        post(client, others)
        database.copy(state_key(tenant, "other", "readings"), state_key(tenant, "s", "readings"), replace=True)
        repeats = post(client, [{**reading, "stream": "s"} for reading in others[10:20]])
        assert {r["status"] for r in repeats} == {"late"}
        database.delete(state_key(tenant, "s"))
    with TestClient(create_app(settings())) as client:
        assert client.get("/v1/streams/s").status_code == 404


def at(seq: int, second: float | None, value: float) -> dict[str, Any]:
    time = {} if second is None else {"timestamp": START_MS / 1000 + second}
    return {"stream": "s", "seq": seq, "values": {"pressure": value, "flow": 1.0}} | time


def test_a_reading_that_others_overtook_while_the_clock_stepped_back_begins_no_session(settings: Make) -> None:
    with TestClient(create_app(settings())) as client:
        post(client, [at(seq, 100 + seq, 3 + seq / 10) for seq in range(5)])
        post(client, [at(seq, 60 + seq, 4) for seq in (7, 8)])
        assert [r["status"] for r in post(client, [at(5, 105, 3.5), at(6, 106, 3.6)])] == ["late", "late"]
        results = post(client, [at(seq, 60 + seq, 4 + seq / 10) for seq in range(9, 30)])
        assert not {r["status"] for r in results} & {"late", "conflict"}
        assert known(client, "s")["session"] == 0


def test_after_the_call_a_clock_may_begin_anew_with_the_count(settings: Make) -> None:
    """A device without a clock stamps its readings with the time since it was started."""
    rebooted = [at(seq, seq - 1000, 4 + seq / 10) for seq in range(20)]
    with TestClient(create_app(settings())) as client:
        first = post(client, [at(seq, seq, 3 + seq / 10) for seq in range(20)])
        assert {r["status"] for r in post(client, rebooted)} == {"conflict"}
        client.post("/v1/streams/s/reset?what=sequence")
        results = post(client, rebooted)
        assert not {r["status"] for r in results} & {"late", "conflict"}
        assert post(client, rebooted) == [{**result, "replayed": True} for result in results]
        again = post(client, [at(seq, seq, 3 + seq / 10) for seq in range(20)])
        assert again == [{**result, "replayed": True} for result in first]
        assert known(client, "s") | {"readings": 40, "session": 1} == known(client, "s")


def test_after_the_call_readings_without_a_time_go_on_whatever_the_clock_said_before(settings: Make) -> None:
    ahead = time.time() + 40 - START_MS / 1000
    with TestClient(create_app(settings())) as client:
        post(client, [at(seq, ahead + seq / 10, 3.0) for seq in range(5)])
        client.post("/v1/streams/s/reset?what=sequence")
        results = post(client, [at(seq, None, 4.0) for seq in range(5)])
        assert not {r["status"] for r in results} & {"late", "conflict"}
        assert known(client, "s")["readings"] == 10
