"""Streams of any channels beside what else there is: incidents and their names, trained models by rules."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.artefact.repository import Repository
from gatewatch.models.detectors.canary import verify
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import scan
from gatewatch.service.app import create_app
from gatewatch.service.core.stepper import Stepper
from gatewatch.service.settings import Settings
from tests.support.samples import PATIENT_MS, make_artefact, post, readings

BEGIN = 1_700_000_000.0
CALM, FAULT, AFTER = 120, 5, 40
LISTS: dict[str, tuple[tuple[str, ...], str]] = {
    "pump": (("flow", "pressure"), "pressure"),
    "fan": (("rpm", "noise"), "noise"),
    "compressor": (("pressure", "flow", "vibration"), "vibration"),
    "meter": (("pressure", "flow"), "flow"),
    "lamp": (("light",), "light"),
}
"""Streams of several lists, some as long as others, and the channel that has a fault: never the first of several."""

Make = Callable[..., Settings]


@pytest.fixture
def any_channels(redis_url: str, tenant: str) -> Make:
    def of(**chosen: Any) -> Settings:
        return Settings(redis_url=redis_url, tenant=tenant, store_timeout_ms=PATIENT_MS, **chosen)

    return of


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """`pumps`, of pressure and flow; and the general model."""
    repository = Repository(str(tmp_path / "models"), verify)
    repository.add("pumps", make_artefact(tmp_path / "pumps", seed=1), "ann")
    repository.add("anything", model_folder("general"), "ann")
    for name in ("pumps", "anything"):
        repository.promote(name, "1", "ann")
    return repository


PUMPS = {"rules": [{"pattern": "pump-*", "model": "pumps"}]}


def strange(stream: str, channels: tuple[str, ...], faulty: str, seed: int) -> list[dict[str, Any]]:
    """A stream's readings, whose one channel is strange for a while."""
    draw = np.random.default_rng(seed)
    values = 50 + draw.normal(0, 1, (CALM + FAULT + AFTER, len(channels)))
    values[CALM : CALM + FAULT, channels.index(faulty)] += 40
    return [
        {"stream": stream, "timestamp": BEGIN + at, "seq": at, "values": dict(zip(channels, row, strict=True))}
        for at, row in enumerate(values.tolist())
    ]


def in_turn(streams: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [reading for beside in zip(*streams, strict=True) for reading in beside]


def scored(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert {result["status"] for result in results} <= {"warming_up", "normal", "anomalous"}, results
    return results


def test_incidents_alerts_logs_and_series_name_the_channels_of_each_stream(any_channels: Make) -> None:
    with TestClient(create_app(any_channels(channel_series=("pump", "fan", "compressor")))) as client:
        sent = [strange(name, *of, seed) for seed, (name, of) in enumerate(LISTS.items())]
        with capture_logs() as logged:
            post(client, in_turn([of_stream[: CALM + FAULT] for of_stream in sent]))
            text = client.get("/metrics").text
            post(client, in_turn([of_stream[CALM + FAULT :] for of_stream in sent]))
        for name, (channels, faulty) in LISTS.items():
            (one,) = client.get("/v1/incidents", params={"stream": name}).json()["incidents"]
            worst = one["channels"][0]
            assert (worst["channel"], worst["direction"]) == (faulty, "above"), name
            assert worst["actual"] > 80
            assert {share["channel"] for share in one["channels"]} <= set(channels)
            whole = client.get(f"/v1/incidents/{one['id']}").json()
            assert all(list(reading["values"]) == list(channels) for reading in whole["readings"])
            lines = [line for line in logged if line["event"].startswith("anomaly") and line["stream"] == name]
            assert lines[0]["event"] == "anomaly opened"
            assert {line["channel"] for line in lines} == {faulty}
            of_open = [line for line in text.splitlines() if "open_anomaly" in line and f'stream="{name}"' in line]
            assert of_open
            assert all(f'channel="{faulty}"' in line for line in of_open)
            history = client.get(f"/v1/streams/{name}/history").json()
            assert all(list(reading["values"]) == list(channels) for reading in history)
        for name in ("pump", "fan", "compressor"):
            values = [line for line in text.splitlines() if "channel_value{" in line and f'stream="{name}"' in line]
            channels = LISTS[name][0]
            assert len(values) == len(channels)
            assert all(any(f'channel="{channel}"' in line for line in values) for channel in channels)


def test_an_incident_of_a_channel_that_joined_later_has_its_name_and_its_onset(any_channels: Make) -> None:
    with TestClient(create_app(any_channels())) as client:
        sent = strange("s", ("a", "b", "c"), "b", 3)
        for reading in sent[:20]:
            del reading["values"]["b"]  # joins behind c
        post(client, sent[: CALM + 1])
        fresh = {**sent[CALM + 1], "values": {**sent[CALM + 1]["values"], "d": 5.0}}
        post(client, [fresh])  # grows within the incident
        post(client, sent[CALM + 2 :])
        (one,) = client.get("/v1/incidents").json()["incidents"]
        assert (one["channels"][0]["channel"], one["channels"][0]["direction"]) == ("b", "above")
        assert one["anomalous"] >= 2
        assert list(client.get("/v1/streams/s/history").json()[-1]["values"]) == ["a", "c", "b", "d"]


def test_a_reading_that_brings_a_channel_and_an_incident_has_the_onset_of_the_readings_before_it(
    any_channels: Make,
) -> None:
    with TestClient(create_app(any_channels())) as client:
        onsets = []
        for name in ("plain", "grows"):
            sent = strange(name, ("a", "b"), "b", 3)
            sent[CALM - 1]["values"]["b"] = 58.0  # on its way to the alarm
            if name == "grows":
                sent[CALM]["values"]["c"] = 1.0
            post(client, sent[:CALM])
            post(client, sent[CALM:])
            (one,) = client.get("/v1/incidents", params={"stream": name}).json()["incidents"]
            onsets.append((one["onset"], one["start"]))
        assert onsets[0] == onsets[1]
        assert onsets[0][0] < onsets[0][1]


def test_a_late_reading_that_opens_an_incident_names_its_channel(any_channels: Make) -> None:
    with TestClient(create_app(any_channels())) as client:
        client.put("/v1/streams/s", json={"reorder_window_s": 60.0}).raise_for_status()
        sent = strange("s", ("a", "b"), "b", 5)[: CALM + FAULT + 3]
        post(client, [*sent[:CALM], *sent[CALM + FAULT :]])
        with capture_logs() as logged:
            assert all(one["corrected"] for one in post(client, sent[CALM : CALM + FAULT]))
        (one,) = client.get("/v1/incidents").json()["incidents"]
        assert one["channels"][0]["channel"] == "b"
        assert [line["channel"] for line in logged if line["event"] == "anomaly opened"] == ["b"]


def test_streams_of_any_channels_and_of_trained_models_share_a_request_and_move_there_and_back(
    any_channels: Make, repository: Repository
) -> None:
    pumps = repository.log.model("pumps").named("champion").digest
    with TestClient(create_app(any_channels(models=repository.url))) as client:
        pump, fan = readings("pump-1", 90), strange("fan-1", ("rpm", "noise"), "noise", 2)
        default = scored(post(client, in_turn([pump[:30], fan[:30]])))[0]["model"]
        client.put("/v1/rules", json=PUMPS).raise_for_status()
        mixed = scored(post(client, in_turn([pump[30:60], fan[30:60]])))
        assert [one["model"] for one in mixed] == [pumps, default] * 30
        assert list(mixed[1]["expected"]) == ["rpm", "noise"]
        client.put("/v1/rules", json={}).raise_for_status()
        back = scored(post(client, in_turn([pump[60:], fan[60:90]])))
        assert {one["model"] for one in back} == {default}
        joined = {**pump[-1], "seq": 90, "timestamp": pump[-1]["timestamp"] + 1, "values": {"flow": 1.0, "power": 2.0}}
        (grown,) = scored(post(client, [joined]))
        assert list(grown["expected"]) == ["pressure", "flow", "power"]
        again = post(client, in_turn([pump[30:60], fan[30:60]]))
        assert again == [{**one, "replayed": True} for one in mixed]
        assert client.get("/v1/streams/pump-1").json()["readings"] == 91


def test_scores_are_equal_to_the_bit_by_scan_one_by_one_and_in_bulk_beside_other_channels_and_models(
    any_channels: Make, tmp_path: Path
) -> None:
    fans = ("rpm", "noise")
    repository = Repository(str(tmp_path / "models"), verify)
    made = {
        "pumps": make_artefact(tmp_path / "pumps", seed=1, channels=("flow", "pressure")),
        "fans": make_artefact(tmp_path / "fans", seed=2, channels=fans),
    }
    for name, folder in made.items():
        repository.add(name, folder, "ann")
        repository.promote(name, "1", "ann")
    streams = {name: strange(name, *LISTS[name], at) for at, name in enumerate(("pump", "fan", "compressor"))}
    by_rule: dict[str, Any] = {"pump": TrainedDetector.load(made["pumps"]), "fan": TrainedDetector.load(made["fans"])}
    rules = [{"pattern": f"{stream}*", "model": f"{stream}s"} for stream in by_rule]
    with TestClient(create_app(any_channels(models=repository.url))) as client:
        client.put("/v1/rules", json={"rules": rules}).raise_for_status()
        bulk = scored(post(client, in_turn(list(streams.values()))))
        for place, (stream, sent) in enumerate(streams.items()):
            beside = bulk[place :: len(streams)]
            alone = [scored(post(client, [{**one, "stream": f"{stream}-alone"}]))[0] for one in sent]
            assert [{**one, "stream": stream} for one in alone] == beside
            channels = LISTS[stream][0]
            detector = by_rule.get(stream) or load_detector(model_folder("general"), channels)
            rows = np.array([list(one["values"].values()) for one in sent])
            times_ms = np.array([one["timestamp"] * 1000 for one in sent], np.int64)
            found = scan(detector, Recording(stream, channels, times_ms, rows))
            assert [one["score"] for one in beside] == found.score.tolist()
            assert {one["model"] for one in beside} == {detector.name}
            assert "anomalous" in {one["status"] for one in beside}


def test_readings_that_were_read_for_one_model_are_scored_by_the_one_that_their_stream_has_by_now(
    any_channels: Make, repository: Repository
) -> None:
    """One process hears of the rules; the other meets a record of the other model before it has looked at them."""
    pumps = repository.log.model("pumps").named("champion").digest
    given = any_channels(models=repository.url, models_look_s=3600)
    with TestClient(create_app(given)) as one, TestClient(create_app(given)) as other:
        streams = ("pump-1", "pump-2", "fan-1")
        pump, second, fan = sent = [readings(name, 60, seed=at) for at, name in enumerate(streams)]
        for of_stream in sent:
            default = scored(post(one, of_stream[:10]))[0]["model"]
            scored(post(other, of_stream[10:20]))
        one.put("/v1/rules", json=PUMPS).raise_for_status()
        post(one, [*pump[20:21], *second[20:21], *fan[20:21]])
        found = scored(post(other, in_turn([pump[21:30], second[21:30], fan[21:30]])))
        assert [result["model"] for result in found] == [pumps, pumps, default] * 9
        one.put("/v1/rules", json={}).raise_for_status()
        post(one, [*pump[30:31], *second[30:31]])
        found = scored(post(other, in_turn([pump[31:40], second[31:40], fan[31:40]])))
        assert {result["model"] for result in found} == {default}
        assert list(found[0]["expected"]) == ["pressure", "flow"]
        power = {**second[40], "values": {**second[40]["values"], "power": 2.0}}
        scored(post(one, [*pump[40:41], power]))
        found = scored(post(other, in_turn([pump[41:50], second[41:50]])))
        assert [list(result["expected"]) for result in found[:2]] == [
            ["pressure", "flow"],
            ["pressure", "flow", "power"],
        ]
        assert [one.get(f"/v1/streams/{name}").json()["readings"] for name in streams] == [50, 50, 39]


@pytest.mark.parametrize("first", [{}, PUMPS])
def test_a_late_reading_takes_its_place_under_a_model_of_any_channels_and_of_its_own(
    any_channels: Make, repository: Repository, first: dict[str, Any]
) -> None:
    second = {} if first else PUMPS
    given = any_channels(models=repository.url, models_look_s=3600)
    with TestClient(create_app(given)) as one, TestClient(create_app(given)) as other:
        one.put("/v1/rules", json=first).raise_for_status()
        other.put("/v1/rules", json=first).raise_for_status()
        one.put("/v1/streams/pump-1", json={"reorder_window_s": 3600}).raise_for_status()
        sent = readings("pump-1", 40)
        before = scored(post(other, [*sent[:10], *sent[11:20]]))[0]["model"]
        one.put("/v1/rules", json=second).raise_for_status()
        after = scored(post(one, sent[20:30]))[0]["model"]
        assert before != after
        (late,) = post(other, [sent[10]])
        assert (late["corrected"], late["model"]) == (True, after)
        assert list(late["expected"]) == ["pressure", "flow"]
        assert other.get("/v1/streams/pump-1").json()["readings"] == 30


POWER = {"unknown": ["power"]}


def with_power(sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**reading, "values": {"power": 1.0, **reading["values"]}} for reading in sent]


def test_a_reading_is_taken_without_the_channels_that_the_model_of_its_rule_does_not_know(
    any_channels: Make, repository: Repository
) -> None:
    """A stream that had the general model loses no reading; scores are those without the channel, and it is said."""
    with TestClient(create_app(any_channels(models=repository.url))) as client, capture_logs() as logs:
        sent, twin = readings("pump-1", 40), [{**r, "stream": "pump-2"} for r in readings("pump-1", 40)]
        scored(post(client, with_power(sent[:20]) + twin[:20]))
        client.put("/v1/rules", json=PUMPS).raise_for_status()
        mixed = in_turn([with_power(sent[20:]), twin[20:], strange("fan", ("rpm",), "rpm", 0)[:20]])
        found = scored(post(client, mixed))
        assert [result.pop("unknown", None) for result in found] == [["power"], None, None] * 20
        same = [{**result, "stream": ""} for result in found]
        assert same[::3] == same[1::3]
        lines = client.post(
            "/v1/streams/pump-1/readings",
            content="\n".join(json.dumps(one) for one in with_power(readings("pump-1", 42)[39:])),
            headers={"content-type": "application/x-ndjson"},
        )
        again, *new = map(json.loads, lines.text.splitlines())
        assert (again["replayed"], again["unknown"]) == (True, ["power"])
        assert [one["unknown"] for one in new] == [["power"]] * 2
        assert client.get("/v1/streams/pump-1").json()["readings"] == 42
        tried = client.post("/v1/readings?dry_run=true", json=with_power(readings("pump-1", 43)[42:]))
        assert tried.json()[0]["unknown"] == ["power"]
        assert "gatewatch_unknown_channels_total 23.0" in client.get("/metrics").text
    (said,) = [line for line in logs if "channels left out" in line["event"]]
    assert (said["channels"], said["readings"]) == ("power", 20)


def test_a_warm_up_names_and_counts_the_channels_that_the_model_of_its_rule_does_not_know(
    any_channels: Make, repository: Repository
) -> None:
    """Also where the rules change while it is on its way."""
    given = any_channels(models=repository.url, models_look_s=3600)
    with TestClient(create_app(given)) as one, TestClient(create_app(given)) as other, capture_logs() as logs:
        sent = readings("pump-1", 40)
        path = "/v1/streams/pump-1/warm-up"
        assert one.post(path, json=with_power(sent[:10])).json()["unknown"] == []
        one.put("/v1/rules", json=PUMPS).raise_for_status()
        done = one.post(path, json=[*with_power(sent[10:20]), *sent[20:30]]).json()
        assert (done["taken"], done["without_unknown"], done["unknown"]) == (20, 10, ["power"])
        assert "gatewatch_unknown_channels_total 10.0" in one.get("/metrics").text
        done = other.post(path, json=with_power(sent[30:])).json()
        assert (done["taken"], done["unknown"]) == (10, ["power"])
        more = [
            {**one, "values": {**one["values"], f"more-{at}": 1.0}}
            for at, one in enumerate(readings("pump-1", 70)[40:])
        ]
        done = one.post(path, json=more).json()
        assert (done["taken"], done["without_unknown"], len(done["unknown"])) == (30, 30, 16)
        (noted,) = other.get("/v1/audit", params={"limit": 1}).json()["changes"]
        assert (noted["detail"]["without_unknown"], "unknown" in noted["detail"]) == (30, False)
    assert [line["channels"] for line in logs if "channels left out" in line["event"]] == ["power"]


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("escaped", [False, True])
def test_readings_with_as_many_and_as_long_names_as_there_may_be_are_taken(
    any_channels: Make, artefact: Path, repository: Repository, lines: bool, escaped: bool
) -> None:
    """By the general model, and without them by a rule's, in any form that JSON has for a name."""
    names = [f"{at:02}{chr(0x1F600)}" + chr(0x1D54F) * 253 for at in range(62)]
    (good,) = readings("pump-1", 1)
    values = {**dict.fromkeys(names, 1.0), **good["values"]}
    sent = [{**good, "stream": name, "values": values} for name in ("fan-1", "pump-1", "pump-2")]
    texts = [json.dumps(one, ensure_ascii=escaped) for one in sent]
    body = "\n".join(texts) if lines else f"[{', '.join(texts)}]"
    headers = {"content-type": "application/x-ndjson" if lines else "application/json"}
    with TestClient(create_app(any_channels(models=repository.url))) as client:
        client.put("/v1/rules", json=PUMPS).raise_for_status()
        reply = client.post("/v1/readings", content=body.encode(), headers=headers)
        found = [json.loads(line) for line in reply.text.splitlines()] if lines else reply.json()
        assert [one["status"] for one in found] == ["warming_up"] * 3, found
        assert [len(one.get("unknown", ())) for one in found] == [0, 62, 62]
    with TestClient(create_app(any_channels(models=repository.url, model=str(artefact)))) as client:
        alone = texts[1].replace("pump-1", "pump-3")
        reply = client.post("/v1/streams/pump-3/readings", content=alone, headers=headers)
        assert (reply.status_code, len(reply.json()["unknown"])) == (200, 62)


def test_a_channel_that_the_model_of_a_stream_does_not_know_is_removed_and_one_of_its_own_stays(
    any_channels: Make, repository: Repository
) -> None:
    with TestClient(create_app(any_channels(models=repository.url))) as client:
        sent = readings("pump-1", 40)
        scored(post(client, with_power(sent[:20])))
        client.put("/v1/rules", json=PUMPS).raise_for_status()
        twin = [{**one, "stream": "pump-2"} for one in sent]
        scored(post(client, sent[20:25] + twin[:25]))
        assert client.get("/v1/streams/pump-1").json()["channels"] == ["power", "pressure", "flow"]
        path = "/v1/streams/pump-1/channels"
        refused = client.delete(path, params={"channel": "flow"})
        assert (refused.status_code, refused.json()["title"]) == (409, "Channel in use")
        known = client.delete(path, params={"channel": "power"}).json()
        assert (known["channels"], known["readings"]) == (["pressure", "flow"], 25)
        found = scored(post(client, in_turn([sent[25:], twin[25:]])))
        assert [{**one, "stream": ""} for one in found[::2]] == [{**one, "stream": ""} for one in found[1::2]]
        client.put("/v1/rules", json={}).raise_for_status()
        (back,) = scored(post(client, readings("pump-1", 41)[40:]))
        assert list(back["expected"]) == ["pressure", "flow"]


def test_a_reading_with_no_channel_of_its_model_or_with_a_flaw_in_one_is_rejected(
    any_channels: Make, repository: Repository
) -> None:
    with TestClient(create_app(any_channels(models=repository.url, stream_channels=4))) as client:
        client.put("/v1/rules", json=PUMPS).raise_for_status()
        (good,) = readings("pump-1", 1)
        for values, error in (
            ({"power": 1.0}, "values has no channel of this model, but power; expected pressure, flow"),
            ({**good["values"], "power": "on"}, "values.power is text ('on'); expected a number or null"),
            ({**good["values"], " flow": 1.0}, "values has ' flow' as a channel; expected a name of 1 to 256"),
            ({**good["values"], "a": 1, "b": 1, "c": 1}, "values has 5 channels; a stream has at most 4"),
            ({"pressure": "high", "power": 1.0}, "values.pressure is text ('high'); expected a number or null"),
        ):
            (result,) = post(client, [{**good, "values": values}])
            assert (result["status"], "unknown" in result) == ("rejected", False)
            assert result["error"].startswith(error), result["error"]
        assert client.get("/v1/streams/pump-1").status_code == 404


def test_named_channels_are_the_only_ones_beside_those_of_a_model(any_channels: Make, repository: Repository) -> None:
    named = any_channels(channels="pressure,flow,power", models=repository.url)
    with TestClient(create_app(named)) as client:
        client.put("/v1/rules", json=PUMPS).raise_for_status()
        sent = with_power(readings("pump-1", 2))
        sent[1]["values"]["speed"] = 1.0
        found = post(client, sent)
        assert (found[0]["unknown"], found[1]["status"]) == (["power"], "rejected")
        assert found[1]["error"].startswith("values.power is not a channel of this model; expected")


def test_a_reading_on_its_way_while_its_stream_gets_a_model_is_taken_without_what_that_does_not_know(
    any_channels: Make, repository: Repository
) -> None:
    """The other process has not heard of the rules; a late reading, too."""
    given = any_channels(models=repository.url, models_look_s=3600)
    with TestClient(create_app(given)) as one, TestClient(create_app(given)) as other:
        one.put("/v1/streams/pump-1", json={"reorder_window_s": 3600}).raise_for_status()
        sent = readings("pump-1", 30)
        scored(post(other, with_power(sent[:9])))
        one.put("/v1/rules", json=PUMPS).raise_for_status()
        model = scored(post(one, sent[10:20]))[0]["model"]
        found = scored(post(other, with_power([sent[9], *sent[20:25]])))
        assert [{"unknown": result["unknown"]} for result in found] == [POWER] * 6
        assert {result["model"] for result in found} == {model}
        assert found[0]["corrected"]
        assert one.get("/v1/streams/pump-1").json()["readings"] == 25
        assert "\ngatewatch_unknown_channels_total 6.0\n" in other.get("/metrics").text


def test_the_general_model_of_a_repository_takes_any_channels_too(
    any_channels: Make, artefact: Path, repository: Repository
) -> None:
    with TestClient(create_app(any_channels(model=str(artefact), models=repository.url))) as client:
        rules = {"rules": [{"pattern": "any-*", "model": "anything"}]}
        client.put("/v1/rules", json=rules).raise_for_status()
        streams = [strange(f"any-{at}", *of, at) for at, of in enumerate(LISTS.values())]
        found = scored(post(client, in_turn([*streams, readings("pump-1", CALM + FAULT + AFTER)])))
        lists = [list(one["expected"]) for one in found[: len(LISTS)]]
        assert lists == [list(channels) for channels, _ in LISTS.values()]
        client.put("/v1/streams/any-new", json={"reorder_window_s": 5}).raise_for_status()
        assert list(scored(post(client, [{"stream": "any-new", "values": {"x": 1.0}}]))[0]["expected"]) == ["x"]


@pytest.mark.parametrize("first", [{}, PUMPS])
def test_a_stream_moves_to_a_model_of_any_channels_and_back_while_a_late_reading_waits(
    any_channels: Make, repository: Repository, first: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = any_channels(models=repository.url, models_look_s=3600)
    begun, go_on, replay = threading.Event(), threading.Event(), Stepper.replay

    def held(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return replay(*arguments)

    with TestClient(create_app(given)) as one, TestClient(create_app(given)) as other:
        one.put("/v1/rules", json=first).raise_for_status()
        other.put("/v1/rules", json=first).raise_for_status()
        one.put("/v1/streams/pump-1", json={"reorder_window_s": 3600}).raise_for_status()
        sent = readings("pump-1", 40)
        post(other, [*sent[:10], *sent[11:20]])
        monkeypatch.setattr(Stepper, "replay", held)
        with ThreadPoolExecutor(1) as threads:
            late = threads.submit(post, other, [sent[10]])
            try:
                assert begun.wait(20)
                one.put("/v1/rules", json={} if first else PUMPS).raise_for_status()
                after = scored(post(one, sent[20:30]))[0]["model"]
            finally:
                go_on.set()
            (corrected,) = late.result()
        assert (corrected["corrected"], corrected["model"]) == (True, after)
        assert list(corrected["expected"]) == ["pressure", "flow"]
        in_order = [{**reading, "stream": "pump-2"} for reading in sent[:30]]
        post(one, in_order)
        tags = [one.get(f"/v1/streams/{stream}").json()["tag"] for stream in ("pump-1", "pump-2")]
        assert tags[0] == tags[1]
