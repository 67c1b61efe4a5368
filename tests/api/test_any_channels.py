"""A service with no channels named: a stream's channels are those that it has sent."""

from __future__ import annotations

import signal
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import redis
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import scan
from gatewatch.service.app import create_app
from gatewatch.service.core import records
from gatewatch.service.core.stepper import Stepper
from gatewatch.service.settings import Settings
from tests.support.samples import post
from tests.support.scorer import state_key
from tests.support.whole_path import serving

BEGIN = 1_700_000_000.0
LISTS: dict[str, tuple[str, ...]] = {
    "pump": ("pressure", "flow"),
    "fan": ("rpm",),
    "compressor": ("pressure", "temperature", "vibration"),
    "meter": ("flow", "pressure"),
}


@pytest.fixture
def any_channels(redis_url: str, tenant: str) -> Callable[..., Settings]:
    def of(**chosen: Any) -> Settings:
        return Settings(redis_url=redis_url, tenant=tenant, log_level="error", **chosen)

    return of


@pytest.fixture
def client(any_channels: Callable[..., Settings]) -> Iterator[TestClient]:
    with TestClient(create_app(any_channels())) as client:
        yield client


def wave(channels: Sequence[str], readings: int, seed: int = 0) -> list[dict[str, float]]:
    draw = np.random.default_rng(seed)
    values = (
        50
        + np.sin(np.arange(readings)[:, None] / 5 + np.arange(len(channels)))
        + draw.normal(0, 0.1, (readings, len(channels)))
    )
    values[-3:, 0] += 30
    return [dict(zip(channels, row, strict=True)) for row in values.tolist()]


def sent(stream: str, values: Sequence[dict[str, float]], first: int = 0) -> list[dict[str, Any]]:
    return [
        {"stream": stream, "timestamp": BEGIN + at, "seq": at, "values": one} for at, one in enumerate(values, first)
    ]


def told(results: Sequence[dict[str, Any]]) -> list[Any]:
    return [(one["status"], one["score"], one["expected"], one["attribution"], one["error"]) for one in results]


def alone(client: TestClient, readings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [post(client, [reading])[0] for reading in readings]


def test_streams_of_any_channels_are_scored_alike_alone_in_bulk_and_by_scan(client: TestClient) -> None:
    values = {stream: wave(channels, 60, seed) for seed, (stream, channels) in enumerate(LISTS.items())}
    beside = zip(*(sent(stream, of_stream) for stream, of_stream in values.items()), strict=True)
    bulk = post(client, [reading for at in beside for reading in at])
    for place, (stream, of_stream) in enumerate(values.items()):
        single = alone(client, sent(f"{stream}-alone", of_stream))
        assert told(bulk[place :: len(values)]) == told(single)
        assert {one["status"] for one in single} == {"warming_up", "normal", "anomalous"}
        assert list(single[0]["expected"]) == list(LISTS[stream])
        times = np.arange(60) * 1000 + int(BEGIN * 1000)
        rows = np.array([list(one.values()) for one in of_stream])
        detector = load_detector(model_folder("general"), LISTS[stream])
        found = scan(detector, Recording(stream, LISTS[stream], times, rows))
        assert [one["score"] for one in single] == found.score.tolist()


def state_of(redis_url: str, tenant: str, stream: str, channels: tuple[str, ...]) -> Any:
    """The detector's part of a stream's record."""
    packed: Any = redis.Redis.from_url(redis_url).get(state_key(tenant, stream))
    dtype = Stepper(load_detector(model_folder("general"), channels), 128).record
    return records.sound([packed], dtype)["detector"]


def test_a_channel_that_comes_later_joins_and_the_others_go_on(client: TestClient, redis_url: str, tenant: str) -> None:
    values = wave(("a", "b"), 60)
    with_c = [one | ({"c": at % 7 / 3} if at >= 30 else {}) for at, one in enumerate(values)]
    plain, grown = post(client, sent("plain", values)), post(client, sent("grown", with_c))
    single = alone(client, sent("single", with_c))
    assert told(grown) == told(single)
    assert told(grown[:30]) == told(plain[:30])
    assert all(list(one["expected"]) == ["a", "b", "c"] for one in grown[30:])
    for with_it, without in zip(grown, plain, strict=True):
        for name in ("a", "b"):
            both = [np.array(one["expected"][name], np.float32) for one in (with_it, without)]
            assert both[0].tobytes() == both[1].tobytes()
    states = [state_of(redis_url, tenant, *of) for of in (("grown", ("a", "b", "c")), ("plain", ("a", "b")))]
    for field in states[1].dtype.names or ():
        if states[1][field].shape[1:2] == (2,):
            assert states[0][field][:, :2].tobytes() == states[1][field].tobytes(), field
    assert grown[30]["expected"]["c"] == [None] * 3
    known = client.get("/v1/streams/grown").json()
    assert (known["readings"], known["last_seq"]) == (60, 59)
    again = post(client, sent("grown", with_c))
    assert told(again) == told(grown)
    assert all(one["replayed"] for one in again)


def remove(client: TestClient, stream: str, channel: str) -> Any:
    return client.delete(f"/v1/streams/{stream}/channels", params={"channel": channel})


def test_a_channel_is_removed_and_the_others_keep_theirs(
    client: TestClient, any_channels: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    """Also in another process, and in a state that is rebuilt from the history."""
    values = wave(("a", "b", "c"), 60)
    joined = [{name: one[name] for name in one if name != "c" or at >= 30} for at, one in enumerate(values)]
    twin = [{name: one[name] for name in one if name != "b"} for one in joined]
    client.put("/v1/streams/s", json={"reorder_window_s": 3600}).raise_for_status()
    first = post(client, sent("s", joined[:10] + joined[11:50], 0))
    post(client, sent("twin", twin[:10] + twin[11:50], 0))
    with TestClient(create_app(any_channels())) as other:
        post(other, sent("s", [joined[50]], 49))
        post(other, sent("twin", [twin[50]], 49))
        before = state_of(redis_url, tenant, "s", ("a", "b", "c"))
        known = remove(client, "s", "b").json()
        assert (known["channels"], known["readings"], known["reorder_window_s"]) == (["a", "c"], 50, 3600.0)
        after = state_of(redis_url, tenant, "s", ("a", "c"))
        by_channel = [field for field in after.dtype.names or () if after[field].shape[1:2] == (2,)]
        assert len(by_channel) > 10
        for field in after.dtype.names or ():
            kept = before[field][:, [0, 2]] if field in by_channel else before[field]
            assert after[field].tobytes() == kept.tobytes(), field
        found, expected = (post(other, sent(name, twin[51:55], 50)) for name in ("s", "twin"))
        assert [one["expected"] for one in found] == [one["expected"] for one in expected]
        (again,) = post(other, sent("s", [twin[20]], 19))
        assert (again["replayed"], again["score"], list(again["expected"])) == (True, first[19]["score"], ["a"])
        assert post(other, sent("s", [joined[20]], 19))[0]["status"] == "conflict"
        assert client.get("/v1/streams/s").json()["channels"] == ["a", "c"]
        with redis.Redis.from_url(redis_url) as database:
            database.delete(state_key(tenant, "s"))
        found, expected = (post(client, sent(name, twin[55:58], 54)) for name in ("s", "twin"))
        assert [one["expected"] for one in found] == [one["expected"] for one in expected]
        back = post(other, sent("s", [joined[58]], 57))[0]
        assert (list(back["expected"]), back["expected"]["b"]) == (["a", "c", "b"], [None] * 3)
    assert client.get("/v1/streams/s").json()["channels"] == ["a", "c", "b"]


def test_a_late_reading_takes_its_place_in_a_stream_whose_channel_was_removed(client: TestClient) -> None:
    values = wave(("a", "b"), 30)
    client.put("/v1/streams/s", json={"reorder_window_s": 3600}).raise_for_status()
    in_order = sent("s", values)
    post(client, in_order[:10] + in_order[11:])
    remove(client, "s", "b").raise_for_status()
    (late,) = post(client, [{**in_order[10], "values": {"a": values[10]["a"]}}])
    assert (late["corrected"], list(late["expected"])) == (True, ["a"])
    whole = post(client, sent("t", [{"a": one["a"]} for one in values]))
    tags = [client.get(f"/v1/streams/{name}").json()["tag"] for name in ("s", "t")]
    assert tags[0] == tags[1]
    assert late["expected"] == whole[10]["expected"]
    (next_,) = post(client, sent("s", [{"a": 50.0}], 30))
    assert next_["expected"] == post(client, sent("t", [{"a": 50.0}], 30))[0]["expected"]


def test_a_channel_that_is_not_there_or_is_needed_is_not_removed(client: TestClient) -> None:
    post(client, sent("s", wave(("a",), 3)))
    for stream, channel, status, words in (
        ("s", "b", 404, "stream s has no channel b; it has a"),
        ("nobody", "a", 404, "nothing is known of stream nobody"),
        ("s", "a", 409, "a is the only channel of stream s"),
        ("s", "", 422, "channel"),
    ):
        reply = remove(client, stream, channel)
        assert (reply.status_code, words in reply.json()["detail"]) == (status, True), reply.text
    assert client.get("/v1/streams/s").json()["channels"] == ["a"]


def test_a_channel_is_removed_while_its_stream_sends(client: TestClient) -> None:
    """Each reading counts once, before it or after it; none fails."""
    values = wave(("a", "b"), 200)
    post(client, sent("s", values[:20]))
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(alone, client, sent("s", [{"a": one["a"]} for one in values[20:]], 20))
        remove(client, "s", "b").raise_for_status()
        results = sending.result()
    assert {one["status"] for one in results} <= {"warming_up", "normal", "anomalous"}
    known = client.get("/v1/streams/s").json()
    assert (known["readings"], known["channels"]) == (200, ["a"])


def test_readings_of_one_stream_through_two_processes_with_channels_of_their_own(
    any_channels: Callable[..., Settings],
) -> None:
    values = [
        one | ({"left": 1.0 + at} if at == 8 else {"right": 2.0 + at} if at in (9, 11) else {})
        for at, one in enumerate(wave(("a", "b"), 20))
    ]
    with TestClient(create_app(any_channels())) as one, TestClient(create_app(any_channels())) as other:
        turns = [post((one, other)[at % 2], [reading])[0] for at, reading in enumerate(sent("both", values))]
        expected = alone(one, sent("one", values))
        tags = [one.get(f"/v1/streams/{stream}").json()["tag"] for stream in ("both", "one")]
    assert told(turns) == told(expected)
    assert tags[0] == tags[1]


def test_a_stream_goes_on_in_a_process_that_meets_it_with_a_part_of_its_channels(
    any_channels: Callable[..., Settings],
) -> None:
    values = wave(("a", "b", "c"), 30)
    parts = [*values[:20], *({name: one[name] for name in ("c", "a")} for one in values[20:])]
    with TestClient(create_app(any_channels())) as one:
        expected = post(one, sent("whole", parts))
        post(one, sent("s", parts[:20]))
    with TestClient(create_app(any_channels())) as fresh:
        rest = post(fresh, sent("s", parts[20:], 20))
        assert told(post(fresh, sent("s", parts[:20]))) == told(expected[:20])
    assert told(rest) == told(expected[20:])
    assert list(rest[0]["expected"]) == ["a", "b", "c"]


def test_names_that_differ_are_other_channels_and_those_that_only_look_alike_are_refused(client: TestClient) -> None:
    results = post(client, sent("s", [{"Flow": 1.0}, {"flow": 2.0}, {"flow ": 3.0}, {"fl​ow": 3.0}, {"": 4.0}]))
    assert list(results[1]["expected"]) == ["Flow", "flow"]
    assert [one["status"] for one in results[2:]] == ["rejected"] * 3
    assert "'flow ' as a channel" in results[2]["error"]


def test_a_channel_named_like_another_one_is_taken_and_said_once(client: TestClient) -> None:
    """Case, inner spaces, and Unicode that looks the same; by a first reading, and by one that brings it."""
    post(client, sent("s", [{"flow rate": 1.0, "Fühler": 2.0}]))
    assert "alike" not in client.get("/v1/streams/s").json()
    with capture_logs() as logs:
        odd = [{"Flow  rate": 1.0}, {"Flow  rate": 2.0, unicodedata.normalize("NFD", "Fühler"): 1.0}, {"FLOWRATE": 3.0}]
        results = alone(client, sent("s", odd, 1)) + post(client, sent("s", odd, 1))
        post(client, sent("t", [{"Ⅳ": 1.0, "iv": 1.0, "other": 1.0}]))
        alone(client, [{"stream": "s", "seq": 0, "values": {"FLOW rate": 1.0}}])  # it is not applied
    assert [one["status"] for one in results] == ["warming_up"] * 6
    said = [(one["stream"], one["channel"], one["like"]) for one in logs if "named like" in one["event"]]
    nfd = unicodedata.normalize("NFD", "Fühler")
    assert said == [
        ("s", "Flow  rate", "flow rate"),
        ("s", nfd, "Fühler"),
        ("s", "FLOWRATE", "Flow  rate"),
        ("t", "iv", "Ⅳ"),
    ]
    assert client.get("/v1/streams/s").json()["alike"] == [["flow rate", "Flow  rate", "FLOWRATE"], ["Fühler", nfd]]
    assert "gatewatch_channels_named_alike_total 4.0" in client.get("/metrics").text


def test_a_number_alone_is_of_the_only_channel(client: TestClient) -> None:
    def number(stream: str, at: int) -> dict[str, Any]:
        return {"stream": stream, "timestamp": BEGIN + at, "values": 4.5}

    named = {"stream": "fan", "timestamp": BEGIN, "values": {"rpm": 3.0}}
    first = post(client, [number("new", 0), number("new", 1), named, number("fan", 1)])
    assert [list(one["expected"]) for one in first] == [["value"], ["value"], ["rpm"], ["rpm"]]
    post(client, sent("two", [{"a": 1.0, "b": 2.0}]))
    refused = post(client, [number("two", 5), {"stream": "none", "values": {}}])
    assert [one["status"] for one in refused] == ["rejected"] * 2
    assert "this stream has 2 channels (a, b)" in refused[0]["error"]
    assert "values is empty" in refused[1]["error"]


def test_a_stream_whose_channels_change_at_every_reading_meets_a_bound_and_goes_on_with_those_it_has(
    any_channels: Callable[..., Settings],
) -> None:
    with TestClient(create_app(any_channels(stream_channels=8))) as client:
        flood = [*sent("s", [{f"c{at}": 1.0} for at in range(200)]), *sent("good", wave(("a",), 3))]
        results = post(client, flood)
        assert [one["status"] for one in results].count("rejected") == 192
        assert "it has 8; a stream has at most 8 (GATEWATCH_STREAM_CHANNELS): expected c0, c1" in results[8]["error"]
        assert client.get("/v1/streams/s").json()["readings"] == 8
        (more,) = post(client, sent("s", [{"c3": 2.0, "c0": 1.0}], 500))
        assert list(more["expected"]) == [f"c{at}" for at in range(8)]
        (wide,) = post(client, sent("wide", [{f"c{at}": 1.0 for at in range(9)}]))
        assert "values has 9 channels; a stream has at most 8" in wide["error"]


def test_a_late_reading_takes_its_place_in_a_stream_of_any_channels(client: TestClient) -> None:
    values = wave(("a", "b"), 40)
    for stream in ("late", "in-order"):
        client.put(f"/v1/streams/{stream}", json={"reorder_window_s": 60.0}).raise_for_status()
    in_order, late = sent("in-order", values), sent("late", values)
    post(client, in_order)
    post(client, [*late[:30], *late[31:]])
    (corrected,) = post(client, [late[30]])
    assert corrected["corrected"]
    tags = [client.get(f"/v1/streams/{stream}").json()["tag"] for stream in ("late", "in-order")]
    assert tags[0] == tags[1]
    (new,) = post(client, [{**late[35], "seq": None, "timestamp": BEGIN + 34.5, "values": {"c": 1.0}}])
    assert new["status"] in ("late", "rejected")
    assert client.get("/v1/streams/late").json()["tag"] == tags[0]


def test_a_late_reading_with_which_a_channel_joins_keeps_no_other_stream_from_its_place(client: TestClient) -> None:
    """One from before a channel joined has no place: what the others made of that time is not to be known any more."""
    values = [*wave(("a", "b"), 40), {"a": 1.0, "b": 2.0, "c": 3.0}]
    late, other = sent("late", values), sent("other", values[:40])
    for stream in ("late", "other"):
        client.put(f"/v1/streams/{stream}", json={"reorder_window_s": 60.0}).raise_for_status()
    post(client, [*late[:30], *late[31:40], *other[:30], *other[31:]])
    first, joined, second = post(client, [late[30], late[40], other[30]])
    assert (first["status"], list(joined["expected"])) == ("late", ["a", "b", "c"])
    assert second["corrected"]


def test_a_reading_that_is_not_applied_brings_no_channel(client: TestClient) -> None:
    values = wave(("a",), 12)
    post(client, sent("s", values[:10]))
    again = sent("s", [{"a": 1.0, "c": 2.0}], 3)
    conflict, late, applied = post(client, [*again, *sent("s", [{"b": 2.0}], 4), *sent("s", values[10:11], 10)])
    assert (conflict["status"], late["status"]) == ("conflict", "conflict")
    assert list(applied["expected"]) == ["a"]


def test_a_lost_state_comes_back_from_a_history_in_which_a_channel_joined(
    any_channels: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    values = [one | ({"c": at % 7 / 3} if at >= 30 else {}) for at, one in enumerate(wave(("a", "b"), 60))]
    with TestClient(create_app(any_channels())) as client:
        expected = post(client, sent("whole", values))
        post(client, sent("s", values[:50]))
    redis.Redis.from_url(redis_url).delete(state_key(tenant, "s"))
    with TestClient(create_app(any_channels())) as client:
        assert told(post(client, sent("s", values[50:], 50))) == told(expected[50:])


def test_after_redis_has_forgotten_a_stream_it_begins_with_what_it_sends(
    client: TestClient, redis_url: str, tenant: str
) -> None:
    post(client, sent("s", [{"a": 1.0, "b": 2.0}]))
    database = redis.Redis.from_url(redis_url)
    database.delete(*database.scan_iter(f"*{tenant}*"), *database.scan_iter("gatewatch:*"))
    (again,) = post(client, sent("s", [{"a": 1.0}], 1))
    assert list(again["expected"]) == ["a"]
    assert client.get("/v1/streams/s").json()["readings"] == 1


def test_a_stream_of_named_channels_goes_on_with_any(
    any_channels: Callable[..., Settings],
) -> None:
    values = wave(("a", "b"), 40)
    with TestClient(create_app(any_channels(channels=("a", "b")))) as named:
        expected = post(named, sent("whole", values))
        post(named, sent("s", values[:20]))
    with TestClient(create_app(any_channels())) as client:
        assert told(post(client, sent("s", values[20:], 20))) == told(expected[20:])
        assert told(post(client, sent("s", values[:20]))) == told(expected[:20])
        (grown,) = post(client, sent("s", [{"a": 1.0, "b": 2.0, "c": 3.0}], 40))
        assert list(grown["expected"]) == ["a", "b", "c"]


def test_serve_with_nothing_set_takes_any_stream_and_a_kill_loses_none(tmp_path: Path) -> None:
    values = wave(("a", "b"), 30)
    with_c = [one | ({"c": 1.0} if at >= 10 else {}) for at, one in enumerate(values)]
    with serving(None, tmp_path / "data") as (url, process):
        whole = httpx2.post(f"{url}/v1/readings", json=sent("whole", with_c)).json()
        httpx2.post(f"{url}/v1/readings", json=sent("s", with_c[:20])).raise_for_status()
        process.send_signal(signal.SIGKILL)
        process.wait()
    time.sleep(0.1)
    with serving(None, tmp_path / "data") as (url, _):
        rest = httpx2.post(f"{url}/v1/readings", json=sent("s", with_c[20:], 20)).json()
        assert httpx2.get(f"{url}/v1/streams/s").json()["readings"] == 30
    assert told(rest) == told(whole[20:])


@pytest.mark.parametrize("later", [0, 3])
def test_what_joined_readings_brought_channels_with_has_its_first_answers_again(client: TestClient, later: int) -> None:
    """A channel is brought by a reading of its own. The request comes again whole, at once or after others."""
    client.put("/v1/streams/mqtt", json={"same_time": "join"}).raise_for_status()

    def line(time_s: int, channel: str) -> dict[str, Any]:
        return {"timestamp": BEGIN + time_s, "values": {channel: 3.0 + time_s}}

    sent = [line(time_s, channel) for time_s in (0, 10) for channel in ("a", "b")] + [line(10, "c")]

    def answers(some: list[dict[str, Any]]) -> list[dict[str, Any]]:
        reply = client.post("/v1/streams/mqtt/readings", json=some)
        assert reply.status_code == 200
        return list(reply.json())

    first = answers(sent)
    assert {one["status"] for one in first} == {"warming_up"}
    for number in range(later):
        answers([line(20 + number, channel) for channel in "abc"])
    readings = client.get("/v1/streams/mqtt").json()["readings"]
    for start, stop in ((0, 5), (0, 2), (2, 5), (4, 5)):
        assert answers(sent[start:stop]) == [{**one, "replayed": True} for one in first[start:stop]]
    assert client.get("/v1/streams/mqtt").json()["readings"] == readings


def test_of_joined_readings_those_are_new_whose_channels_the_time_has_not_had(client: TestClient) -> None:
    client.put("/v1/streams/mqtt", json={"same_time": "join"}).raise_for_status()
    lines = [{"timestamp": BEGIN, "values": {channel: 3.0}} for channel in "abc"]
    client.post("/v1/streams/mqtt/readings", json=[{"timestamp": BEGIN - 1, "values": dict.fromkeys("abc", 3.0)}])
    client.post("/v1/streams/mqtt/readings", json=lines[:1]).raise_for_status()
    answers = client.post("/v1/streams/mqtt/readings", json=[*lines[1:], lines[0]]).json()
    assert [(one["status"], one["replayed"]) for one in answers] == [
        ("warming_up", False), ("warming_up", False), ("warming_up", True)
    ]  # fmt: skip
    assert client.get("/v1/streams/mqtt").json()["readings"] == 3
