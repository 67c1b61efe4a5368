"""Gaps in seq, late readings that take their place, and the settings that say so for a stream."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
import redis
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.app import create_app
from gatewatch.service.core.build import Core
from gatewatch.service.core.history import Entries
from gatewatch.service.core.readings import Part
from gatewatch.service.core.records import Records
from gatewatch.service.core.stepper import Stepper
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.core.stream_settings import StreamSettings
from gatewatch.service.errors import Contended, PartlyUnavailable
from gatewatch.service.settings import Settings
from gatewatch.service.storage.store import StateStore
from gatewatch.service.storage.unit_of_work import UnitOfWork
from tests.support.samples import post, readings
from tests.support.scorer import core_of, model_of, read, state_key, texts


def configure(client: TestClient, stream: str, **settings: Any) -> dict[str, Any]:
    reply = client.put(f"/v1/streams/{stream}", json=settings)
    assert reply.status_code == 200, reply.text
    known: dict[str, Any] = reply.json()
    return known


def without_seq(sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in reading.items() if name != "seq"} for reading in sent]


def shuffled(sent: list[dict[str, Any]], within: int, seed: int) -> list[dict[str, Any]]:
    """Each reading up to `within` places later than its turn."""
    order = random.Random(seed)
    return [r for _, r in sorted(((n + order.uniform(0, within), r) for n, r in enumerate(sent)), key=lambda at: at[0])]


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_late_readings_take_their_place(client: TestClient, numbered: bool, seed: int) -> None:
    """In any order of arrival within the window: the tag, score and history of a stream that saw all in order."""
    sent = readings("late", 90, seed)
    sent = sent if numbered else without_seq(sent)
    configure(client, "late", reorder_window_s=600)
    results = []
    for reading in shuffled(sent, 9, seed):
        results += post(client, [reading])
    expected = post(client, [{**reading, "stream": "sorted"} for reading in sent])
    assert {r["status"] for r in results} <= {"warming_up", "normal", "anomalous"}
    late, in_order = (client.get(f"/v1/streams/{stream}").json() for stream in ("late", "sorted"))
    for name in ("readings", "tag", "score", "last_timestamp", "last_seq", "status"):
        assert late[name] == in_order[name], name
    history = [entry["result"] for entry in client.get("/v1/streams/late/history").json()]
    assert [r["score"] for r in history] == [r["score"] for r in expected]
    assert any(r["corrected"] for r in results)
    assert any(r["corrected"] for r in history)
    counted = sum(r["corrected"] for r in results)
    assert f"gatewatch_corrections_total {counted}.0" in client.get("/metrics").text


def test_a_late_reading_sent_again_is_answered_again(client: TestClient) -> None:
    sent = readings("again", 20)
    configure(client, "again", reorder_window_s=600)
    post(client, [reading for reading in sent if reading["seq"] != 15])
    (first,) = post(client, [sent[15]])
    (again,) = post(client, [sent[15]])
    (other,) = post(client, [{**sent[15], "values": {"pressure": 9.5}}])
    assert first["corrected"]
    assert again == {**first, "replayed": True}
    assert other["status"] == "conflict"
    assert client.get("/v1/streams/again").json()["readings"] == 20


async def score(core: Core, one: list[Part]) -> str:
    """The answer to one reading, which may have to be put in its place first."""
    (given,) = await core.scorer.score_batch(one)
    (text,) = texts([await given if isinstance(given, asyncio.Future) else given])
    assert isinstance(text, str), text
    return text


class OvertakenStore(StateStore):
    """Another process is faster, once: before the stream is held for a correction, or while it is."""

    before: Callable[[], Awaitable[Any]] | None = None
    during: Callable[[], Awaitable[Any]] | None = None

    async def load_histories(self, streams: Sequence[StreamKey]) -> list[bytes]:
        histories = await super().load_histories(streams)
        if self.before is not None:
            job, self.before = self.before, None
            await job()
        return histories

    async def load_earlier(self, streams: Sequence[StreamKey]) -> list[list[bytes]]:
        if self.during is not None:
            job, self.during = self.during, None
            await job()
        return await super().load_earlier(streams)


@pytest.mark.parametrize("moment", ["before", "during"])
@pytest.mark.parametrize(("value", "status", "count"), [(None, "warming_up", 5), (9.5, "conflict", 4)])
def test_a_late_reading_that_another_process_overtakes(
    detector: TrainedDetector, redis_url: str, tenant: str, moment: str, value: float | None, status: str, count: int
) -> None:
    """The other process applies a newer reading, or another one with the late one's identity."""
    sent = readings("race", 5)
    other = sent[4] if value is None else {**sent[2], "values": {"pressure": value}}

    async def race() -> tuple[dict[str, Any], dict[str, Any] | None]:
        model = model_of(detector)
        stores = [OvertakenStore(redis_url, tenant, 2000), StateStore(redis_url, tenant, 2000)]
        mine, others = [core_of(model, store, 4) for store in stores]

        await mine.inspection.configure(StreamKey(tenant, "race"), StreamSettings(reorder_window_s=600))
        await mine.scorer.score_batch(read(model, tenant, sent[0], sent[1], sent[3]))
        setattr(stores[0], moment, lambda: score(others, read(model, tenant, other)))
        text = await score(mine, read(model, tenant, sent[2]))
        known = await mine.inspection.describe(StreamKey(tenant, "race"))
        for store in stores:
            await store.close()
        result: dict[str, Any] = json.loads(text)
        return result, known

    result, known = asyncio.run(race())
    assert result["status"] == status
    assert known is not None
    assert known["readings"] == count


class PartlyAwayStore(StateStore):
    """Stream `b` is away while late readings are given their places."""

    async def load_earlier(self, streams: Sequence[StreamKey]) -> list[list[bytes]]:
        if any(stream.name == "b" for stream in streams):
            raise PartlyUnavailable("a node is away", lambda stream: stream.name == "b")
        return await super().load_earlier(streams)


def test_a_stream_that_is_away_fails_no_late_reading_of_others(
    detector: TrainedDetector, redis_url: str, tenant: str
) -> None:
    of = {name: readings(name, 4) for name in "abc"}

    async def late() -> list[Any]:
        model, store = model_of(detector), PartlyAwayStore(redis_url, tenant, 2000)
        core = core_of(model, store, 4)
        for name, sent in of.items():
            await core.inspection.configure(StreamKey(tenant, name), StreamSettings(reorder_window_s=600))
            await core.scorer.score_batch(read(model, tenant, sent[0], sent[1], sent[3]))
        given = await core.scorer.score_batch(read(model, tenant, *(sent[2] for sent in of.values())))
        answers = await asyncio.gather(
            *(one for one in given if isinstance(one, asyncio.Future)), return_exceptions=True
        )
        await store.close()
        return answers

    first, away, last = asyncio.run(late())
    assert isinstance(away, PartlyUnavailable)
    assert [json.loads(one)["corrected"] for one in (first, last)] == [True, True]


@pytest.mark.parametrize("moment", ["before", "during"])
@pytest.mark.parametrize("on_gap", ["accept", "hold"])
@pytest.mark.parametrize("kept", [0, 1])
def test_a_late_reading_of_a_stream_that_is_deleted_or_goes_back_meanwhile_is_to_be_sent_again(
    detector: TrainedDetector, redis_url: str, tenant: str, moment: str, on_gap: Literal["accept", "hold"], kept: int
) -> None:
    """It is late no more: sent again, it is a new one."""
    sent, key = readings("race", 5), StreamKey(tenant, "race")

    async def race() -> tuple[Any, list[Any]]:
        model = model_of(detector)
        stores = [OvertakenStore(redis_url, tenant, 2000), StateStore(redis_url, tenant, 2000)]
        mine, others = [core_of(model, store, 4) for store in stores]

        async def go_back() -> None:
            await stores[1].delete(key)
            await others.inspection.configure(key, StreamSettings(reorder_window_s=600, on_gap=on_gap))
            await others.scorer.score_batch(read(model, tenant, *sent[:kept]))

        await mine.inspection.configure(key, StreamSettings(reorder_window_s=600))
        await mine.scorer.score_batch(read(model, tenant, sent[0], sent[1], sent[3]))
        setattr(stores[0], moment, go_back)
        (late,) = await mine.scorer.score_batch(read(model, tenant, sent[2]))
        assert isinstance(late, asyncio.Future)
        await asyncio.wait([late])
        again = await mine.scorer.score_batch(read(model, tenant, *sent[:3]))
        for store in stores:
            await store.close()
        return late.exception(), [json.loads(str(text)) for text in again]

    error, again = asyncio.run(race())
    assert isinstance(error, Contended)
    assert [one["replayed"] for one in again] == [at < kept for at in range(3)]


def test_a_reading_later_than_the_window_stays_late(client: TestClient) -> None:
    sent = readings("old", 40)
    configure(client, "old", reorder_window_s=300)
    post(client, [reading for reading in sent if reading["seq"] not in (30, 36)])
    results = post(client, [sent[30], sent[36]])
    assert results[0]["status"] == "late"
    assert results[1]["corrected"]
    assert client.get("/v1/streams/old").json()["readings"] == 39


def test_without_a_window_a_late_reading_changes_nothing(client: TestClient) -> None:
    sent = readings("none", 20)
    post(client, [reading for reading in sent if reading["seq"] != 18])
    before = client.get("/v1/streams/none").json()
    (result,) = post(client, [sent[18]])
    assert result["status"] == "late"
    assert client.get("/v1/streams/none").json() == before


def test_a_stream_that_holds_waits_at_a_gap(client: TestClient) -> None:
    sent = readings("held", 12)
    configure(client, "held", on_gap="hold")
    post(client, sent[:5])
    results = post(client, [sent[6], sent[7]])
    assert [r["status"] for r in results] == ["rejected"] * 2
    assert results[0]["error"] == "seq is 6, but this stream waits at gaps (on_gap is hold); expected 5"
    assert [r["status"] for r in post(client, [sent[7], sent[5], sent[6]])] == ["normal"] * 3
    assert [r["status"] for r in post(client, sent[8:])] == ["normal"] * 4
    post(client, [{**reading, "stream": "free"} for reading in sent])
    tags = [client.get(f"/v1/streams/{stream}").json()["tag"] for stream in ("held", "free")]
    assert tags[0] == tags[1]


def test_a_stream_that_holds_takes_no_late_reading_across_a_gap(client: TestClient) -> None:
    """Neither ahead of its first one, which may have any seq, nor into a gap from before it waited at gaps."""
    sent = readings("both", 12)
    post(client, [reading for reading in sent[4:9] if reading["seq"] not in (6, 7)])
    configure(client, "both", on_gap="hold", reorder_window_s=900)
    tag = client.get("/v1/streams/both").json()["tag"]
    for early, expected in ((2, 3), (7, 6)):
        (result,) = post(client, [sent[early]])
        assert result["status"] == "rejected"
        assert result["error"] == (
            f"seq is {early}, but this stream waits at gaps (on_gap is hold); expected {expected}"
        )
    assert client.get("/v1/streams/both").json()["tag"] == tag
    for seq in (3, 2, 6, 7):
        assert post(client, [sent[seq]])[0]["corrected"], seq
    post(client, sent[9:])
    post(client, [{**reading, "stream": "sorted"} for reading in sent[2:]])
    tags = [client.get(f"/v1/streams/{stream}").json()["tag"] for stream in ("both", "sorted")]
    assert tags[0] == tags[1]
    assert 'gatewatch_readings_total{status="rejected"} 2.0' in client.get("/metrics").text


def alerts(client: TestClient) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("gatewatch_alerts_total"))


def test_an_alert_that_a_late_reading_brings_to_light_is_counted_and_logged(client: TestClient) -> None:
    sent = readings("light", 6)
    sent[4]["values"] = {"pressure": 90.0, "flow": 3.0}
    configure(client, "light", reorder_window_s=600)
    results = post(client, [sent[at] for at in (0, 1, 2, 4)])
    assert {r["status"] for r in results} == {"warming_up"}
    assert alerts(client) == 0
    with capture_logs() as logged:
        (late,) = post(client, [sent[3]])
    assert (late["status"], late["corrected"]) == ("warming_up", True)
    anomaly = client.get("/v1/streams/light/history").json()[-1]["result"]
    assert (anomaly["seq"], anomaly["status"]) == (4, "anomalous")
    assert alerts(client) == 1
    (line,) = (line for line in logged if line["event"] == "anomaly opened")
    assert (line["stream"], line["score"], line["corrected"]) == ("light", anomaly["score"], True)


def test_an_incident_whose_beginning_moves_alerts_once(client: TestClient) -> None:
    sent = readings("moves", 14)
    for at in (10, 11):
        sent[at]["values"] = {"pressure": 90.0 + at, "flow": 3.0}
    configure(client, "moves", reorder_window_s=600)
    post(client, [reading for reading in sent if reading["seq"] != 10])
    assert alerts(client) == 1
    (late,) = post(client, [sent[10]])
    assert (late["status"], late["corrected"]) == ("anomalous", True)
    assert alerts(client) == 1


def test_an_alert_of_before_the_latest_incident_has_one_of_its_own(settings: Callable[..., Settings]) -> None:
    """So much lies between the two that they are not one."""
    sent = readings("past", 241)
    for at in (20, 240):
        sent[at]["values"] = {"pressure": 90.0, "flow": 3.0}
    with TestClient(create_app(settings(history_readings=512))) as client:
        configure(client, "past", reorder_window_s=86_400)
        post(client, [one for one in sent if one["seq"] != 20])
        assert alerts(client) == 1
        (late,) = post(client, [sent[20]])
        assert (late["status"], alerts(client)) == ("anomalous", 2)
        found = client.get("/v1/incidents", params={"stream": "past"}).json()["incidents"]
        assert [(one["id"], one["state"], len(one["alerts"])) for one in found] == [
            ("239.past", "open", 1), ("20.past", "ended", 1),
        ]  # fmt: skip
        post(client, readings("past", 40, start=241))
        assert client.get("/v1/incidents/239.past").json()["state"] == "ended"


def test_settings_change_no_score_and_outlive_a_lost_record(
    settings: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    sent = readings("s", 30)
    with TestClient(create_app(settings())) as client:
        post(client, sent[:10])
        tag = client.get("/v1/streams/s").json()["tag"]
        known = configure(client, "s", on_gap="hold", reorder_window_s=120)
        assert (known["tag"], known["readings"]) == (tag, 10)
        results = post(client, sent[10:])
        expected = post(client, [{**reading, "stream": "plain"} for reading in sent])
        assert [r["score"] for r in results] == [r["score"] for r in expected[10:]]
        with redis.Redis.from_url(redis_url) as database:
            database.delete(state_key(tenant, "s"))
        known = client.get("/v1/streams/s").json()
        assert (known["on_gap"], known["reorder_window_s"], known["readings"]) == ("hold", 120.0, 30)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"on_gap": "wait"}, "on_gap"),
        ({"reorder_window_s": -1}, "reorder_window_s"),
        ({"reorder_window_s": "soon"}, "reorder_window_s"),
        ({"window": 3}, "window"),
    ],
)
def test_wrong_settings_name_the_field(client: TestClient, body: dict[str, Any], field: str) -> None:
    reply = client.put("/v1/streams/w", json=body)
    assert reply.status_code == 422
    assert field in reply.json()["detail"]
    assert client.get("/v1/streams/w").status_code == 404


def test_a_deleted_stream_begins_anew(client: TestClient) -> None:
    sent = readings("gone", 10)
    first = post(client, sent)
    assert client.delete("/v1/streams/gone").status_code == 204
    assert client.get("/v1/streams/gone").status_code == 404
    assert client.delete("/v1/streams/gone").status_code == 404
    assert post(client, sent) == first


def test_a_corrupt_record_is_kept_aside(settings: Callable[..., Settings], redis_url: str, tenant: str) -> None:
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:
        post(client, readings("q", 10))
        database.setrange(state_key(tenant, "q"), 60, b"\xff\xff")
        damaged = database.get(state_key(tenant, "q"))
        post(client, readings("q", 1, start=10))
        assert database.get(state_key(tenant, "q", "quarantine")) == damaged


def test_a_rebuilt_stream_still_takes_late_readings(
    settings: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    sent = readings("rebuilt", 40)
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:
        configure(client, "rebuilt", reorder_window_s=900)
        post(client, [reading for reading in sent[:34] if reading["seq"] != 30])
        database.delete(state_key(tenant, "rebuilt"))
        post(client, sent[34:])
        assert post(client, [sent[30]])[0]["corrected"]
        post(client, [{**reading, "stream": "sorted"} for reading in sent])
        tags = [client.get(f"/v1/streams/{stream}").json()["tag"] for stream in ("rebuilt", "sorted")]
    assert tags[0] == tags[1]


def test_settings_of_another_version_harm_nobody(
    settings: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:
        database.set(state_key(tenant, "newer", "settings"), b'{"on_gap": "hold", "newer_field": 1}')
        database.set(state_key(tenant, "broken", "settings"), b"\xff")
        sent = [{**readings("any", 1)[0], "stream": name} for name in ("newer", "broken", "neighbour")]
        assert [r["status"] for r in post(client, sent)] == ["warming_up"] * 3
        assert client.get("/v1/streams/newer").json()["on_gap"] == "hold"


def tag_of(client: TestClient, stream: str) -> str:
    tag: str = client.get(f"/v1/streams/{stream}").json()["tag"]
    return tag


def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many readings each stream was replayed, in the order in which they were."""
    counts: list[int] = []
    replay = Stepper.replay

    def counted(stepper: Stepper, records: Records, readings: Sequence[Entries], *layouts: Any) -> list[Entries]:
        counts.extend(map(len, readings))
        return replay(stepper, records, readings, *layouts)

    monkeypatch.setattr(Stepper, "replay", counted)
    return counts


@pytest.mark.parametrize("numbered", [True, False])
def test_many_late_readings_of_a_stream_cost_one_replay(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, numbered: bool
) -> None:
    """Sent in reverse order, in one request: each batch that comes while one is corrected is one more at most."""
    sent = readings("many", 101)
    sent = sent if numbered else without_seq(sent)
    configure(client, "many", reorder_window_s=604_800)
    post(client, [sent[100]])
    counts = replays(monkeypatch)
    results = post(client, sent[99::-1])
    assert all(r["corrected"] for r in results)
    assert sum(counts) <= 4 * 101
    expected = post(client, [{**reading, "stream": "sorted"} for reading in sent])
    assert [r["score"] for r in reversed(results)] == [r["score"] for r in expected[:100]]
    assert tag_of(client, "many") == tag_of(client, "sorted")
    history = [entry["result"] for entry in client.get("/v1/streams/many/history").json()]
    assert [r["score"] for r in history] == [r["score"] for r in expected]


@pytest.mark.parametrize("seed", range(3))
def test_late_readings_of_streams_that_take_turns_find_their_places(
    settings: Callable[..., Settings], seed: int
) -> None:
    """On both sides of the earlier records that a short window keeps, which have to see them too."""
    names, rng = ["one", "two", "three"], random.Random(seed)
    sent = {name: readings(name, 150, seed=seed + at) for at, name in enumerate(names)}
    with TestClient(create_app(settings(history_readings=64))) as client:
        for name in names:
            configure(client, name, reorder_window_s=900)
        for at in range(0, 150, 10):
            chosen = [sent[name][k] for k in range(at, at + 10) for name in names]
            late = rng.sample(chosen, 12)
            post(client, [reading for reading in chosen if reading not in late])
            results = post(client, late)
            assert {r["status"] for r in results} <= {"warming_up", "normal", "anomalous"}
        for name in names:
            expected = post(client, [{**reading, "stream": f"{name}-sorted"} for reading in sent[name]])
            known, in_order = (client.get(f"/v1/streams/{stream}").json() for stream in (name, f"{name}-sorted"))
            assert (known["tag"], known["readings"], known["score"]) == (in_order["tag"], 150, expected[-1]["score"])


def test_the_same_late_reading_twice_in_a_request_is_applied_once(client: TestClient) -> None:
    sent = readings("twice", 20)
    configure(client, "twice", reorder_window_s=600)
    post(client, [reading for reading in sent if reading["seq"] != 15])
    other = {**sent[15], "values": {"pressure": 9.5}}
    first, again, conflict = post(client, [sent[15], sent[15], other])
    assert (first["corrected"], first["replayed"]) == (True, False)
    assert again == {**first, "replayed": True}
    assert conflict["status"] == "conflict"
    assert client.get("/v1/streams/twice").json()["readings"] == 20


def test_more_late_readings_than_a_history_holds_are_late(settings: Callable[..., Settings]) -> None:
    sent = readings("full", 60)
    with TestClient(create_app(settings(history_readings=32))) as client:
        configure(client, "full", reorder_window_s=604_800)
        post(client, [sent[at] for at in range(0, 60, 3)])
        results = post(client, [sent[at] for at in range(57) if at % 3])
        applied = [r["seq"] for r in results if r["corrected"]]
        assert applied == [r["seq"] for r in results[: len(applied)]]
        assert [r["status"] for r in results[len(applied) :]] == ["late"] * (38 - len(applied))
        assert (
            12 <= len(applied) <= 14
        )  # 20 are there and 32 fit, behind the one or two that an earlier record has seen
        kept = sorted({*range(0, 60, 3), *applied})
        post(client, [{**sent[at], "stream": "sorted"} for at in kept])
        assert tag_of(client, "full") == tag_of(client, "sorted")


def test_other_streams_are_scored_while_a_correction_is_under_way(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readings of others, and of the stream itself; those are replayed at the end."""
    sent = readings("slow", 60)
    configure(client, "slow", reorder_window_s=3600)
    post(client, [reading for reading in sent[:50] if reading["seq"] != 20])
    begun, go_on = threading.Event(), threading.Event()
    replay = Stepper.replay

    def held(stepper: Stepper, records: Records, given: Sequence[Entries], *layouts: Any) -> list[Entries]:
        begun.set()
        assert go_on.wait(20)
        return replay(stepper, records, given, *layouts)

    monkeypatch.setattr(Stepper, "replay", held)
    with ThreadPoolExecutor(1) as threads:
        late = threads.submit(post, client, [sent[20]])
        try:
            assert begun.wait(20)
            assert post(client, readings("other", 1))[0]["status"] == "warming_up"
            newer = post(client, sent[50:])
        finally:
            go_on.set()
        assert late.result(20)[0]["corrected"]
    assert not any(r["corrected"] for r in newer)
    post(client, [{**reading, "stream": "sorted"} for reading in sent])
    assert tag_of(client, "slow") == tag_of(client, "sorted")
    history = client.get("/v1/streams/slow/history").json()
    assert history[-1]["result"]["corrected"]


def test_what_would_wait_too_long_for_corrections_gets_429_and_nothing_is_lost(
    settings: Callable[..., Settings],
) -> None:
    names = [f"w{at}" for at in range(40)]
    with TestClient(create_app(settings(correcting_ms=1))) as client:
        for name in names:
            configure(client, name, reorder_window_s=3600)
            post(client, [reading for reading in readings(name, 12) if reading["seq"] != 5])
        late = [readings(name, 6)[5] for name in names]
        fresh = readings("fresh", 1)
        reply, tries = client.post("/v1/readings", json=late + fresh), 1
        assert reply.status_code == 429
        assert reply.headers["Retry-After"] == "1"
        assert "GATEWATCH_CORRECTING_MS" in reply.json()["detail"]
        while reply.status_code == 429 and tries < 1000:
            time.sleep(0.01)
            reply, tries = client.post("/v1/readings", json=late + fresh), tries + 1
        results = reply.json()
        assert all(r["corrected"] for r in results[:40])
        assert results[40]["replayed"]
        assert {client.get(f"/v1/streams/{name}").json()["readings"] for name in names} == {12}


def test_a_foreign_or_corrupt_earlier_record_concerns_its_stream_alone(
    settings: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    names = ["foreign", "corrupt", "lost", "sound"]
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:
        for name in names:
            configure(client, name, reorder_window_s=3600)
            post(client, [reading for reading in readings(name, 12) if reading["seq"] != 5])
        for slot in (0, 1):
            key = state_key(tenant, "foreign", f"earlier:{slot}")
            database.delete(key)
            database.rpush(key, "x")
            database.set(state_key(tenant, "corrupt", f"earlier:{slot}"), b"GW")
        database.delete(state_key(tenant, "lost", "readings"))
        database.rpush(state_key(tenant, "lost", "readings"), "x")
        results = post(client, [readings(name, 6)[5] for name in names])
        assert [r["status"] for r in results] == ["normal", "normal", "late", "normal"]
        assert [r["corrected"] for r in results] == [True, True, False, True]


def test_a_stream_that_others_keep_writing_fails_its_readings_alone(
    detector: TrainedDetector, redis_url: str, tenant: str
) -> None:
    """The late one of it and the new one; a neighbour in the same batch is answered."""

    class Overwritten(StateStore):
        busy = False

        @asynccontextmanager
        async def begin(self, streams: Sequence[StreamKey], cached: bool = False) -> AsyncIterator[UnitOfWork]:
            async with super().begin(streams, cached) as held:
                if self.busy and StreamKey(tenant, "busy") in streams:
                    with redis.Redis.from_url(redis_url) as database:
                        database.set(state_key(tenant, "busy"), os.urandom(8))
                yield held

    async def run() -> list[object]:
        model = model_of(detector)
        store = Overwritten(redis_url, tenant, 2000)
        core = core_of(model, store, 4)

        for name in ("busy", "calm"):
            await core.inspection.configure(StreamKey(tenant, name), StreamSettings(reorder_window_s=600))
            sent = readings(name, 4)
            await core.scorer.score_batch(read(model, tenant, sent[0], sent[1], sent[3]))
        store.busy = True
        batch = read(model, tenant, *(readings(name, 5)[seq] for seq in (2, 4) for name in ("busy", "calm")))
        given = await core.scorer.score_batch(batch)
        await core.corrector.finish()
        await store.close()
        return [one.exception() or one.result() if isinstance(one, asyncio.Future) else one for one in given]

    late, calm_late, new, calm_new = asyncio.run(run())
    assert isinstance(late, Contended)
    assert isinstance(new, Contended)
    assert json.loads(str(calm_late))["corrected"]
    assert json.loads(str(calm_new))["score"] is not None
