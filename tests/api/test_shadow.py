"""A shadow scores streams beside the model that answers, and is only counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.artefact.repository import Repository
from gatewatch.models.detectors.asked import Asked, nothing_asked
from gatewatch.models.detectors.detector import ANOMALOUS, WARMING_UP, Step
from gatewatch.models.detectors.incidents import unlearn
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.app import create_app
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.serving.shadow import in_share
from gatewatch.service.settings import Settings
from tests.support.repositories import pumps_in
from tests.support.samples import CHANNELS, START_MS, make_artefact, post, readings
from tests.support.waiting import PATIENCE_S

Make = Callable[..., Settings]
Sent = list[dict[str, Any]]

PUMPS = {"rules": [{"pattern": "pump-*", "model": "pumps"}]}
SHADOW = "/v1/models/pumps/shadow"
STREAMS = [f"pump-{number}" for number in range(4)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("made")
    fans = make_artefact(folder / "fans", seed=9, channels=("speed", "noise", "current"))
    return [*(make_artefact(folder / str(seed), seed=seed) for seed in (1, 2)), fans]


@pytest.fixture
def repository(made: list[Path], tmp_path: Path) -> Repository:
    """Two versions of `pumps`, of which the first is champion, and a third one of other channels."""
    return pumps_in(tmp_path / "models", made)


@pytest.fixture
def service(settings: Make, repository: Repository) -> Iterator[TestClient]:
    with TestClient(create_app(settings(models=repository.url))) as client:
        client.put("/v1/rules", json=PUMPS).raise_for_status()
        yield client


def mixed(count: int, start: int = 0) -> Sent:
    """Readings of all streams in turn, with a jump now and then."""
    of_each = [readings(name, count, seed=at, start=start) for at, name in enumerate(STREAMS)]
    sent = [of_one[at] for at in range(count) for of_one in of_each]
    for at in range(37, len(sent), 41):
        sent[at] = {**sent[at], "values": dict.fromkeys(sent[at]["values"], 40.0)}
    return sent


def told(folder: Path, sent: Sent, asked: Asked | None = None, silent: range = range(0)) -> list[Step]:
    """What a model says of readings of one stream; those at the times `silent` teach it nothing."""
    detector = TrainedDetector.load(folder)
    states, steps = detector.initial(1), []
    for reading in sent:
        values = np.array([[reading["values"].get(name, np.nan) for name in detector.channels]], np.float64)
        times = np.array([round(1000 * reading["timestamp"])])
        steps.append(detector.advance(values, times, states.copy(), asked))
        taught = steps[-1].states
        states = unlearn(states, taught) if reading["timestamp"] in silent else taught
    return steps


def expected(made: list[Path], sent: Sent, *asked: Any) -> dict[str, Any]:
    """The figures that two versions come to."""
    both, alone, alerts, count = 0, [0, 0], [0, 0], 0
    for stream in STREAMS:
        own = [reading for reading in sent if reading["stream"] == stream]
        for pair in zip(told(made[0], own, *asked), told(made[1], own, *asked), strict=True):
            if any(step.status[0] == WARMING_UP for step in pair):
                continue
            count += 1
            found = [bool(step.status[0] == ANOMALOUS) for step in pair]
            both += all(found)
            alone = [alone[0] + (found == [True, False]), alone[1] + (found == [False, True])]
            alerts = [known + int(step.alert[0]) for known, step in zip(alerts, pair, strict=True)]
    return {
        "readings": count,
        "anomalous": {"both": both, "champion_only": alone[0], "shadow_only": alone[1]},
        "alerts": {"champion": alerts[0], "shadow": alerts[1]},
    }


def compared(client: TestClient, most: int) -> dict[str, Any]:
    """The figures once so many readings were compared; or what they are when patience ends."""
    until = time.monotonic() + PATIENCE_S
    while (found := client.get(SHADOW).json())["readings"] < most and time.monotonic() < until:
        time.sleep(0.05)
    return dict(found)


def test_a_shadow_says_what_its_version_would_have_said(service: TestClient, made: list[Path]) -> None:
    """It begins in the middle of the streams, by their histories."""
    sent = mixed(100)
    post(service, sent[:200])
    begun = service.put(SHADOW, json={"version": 2, "share": 1})
    assert begun.status_code == 200, begun.text
    assert (begun.json()["version"], begun.json()["readings"], begun.json()["share"]) == (2, 0, 1.0)
    results = [result for at in range(200, 400, 40) for result in post(service, sent[at : at + 40])]
    whole, before = expected(made, sent), expected(made, sent[:200])
    found = compared(service, whole["readings"] - before["readings"])

    assert found["dropped"] == 0
    assert found["readings"] == whole["readings"] - before["readings"]
    for name in ("anomalous", "alerts"):
        assert found[name] == {who: number - before[name][who] for who, number in whole[name].items()}
    assert sum(found["anomalous"].values()) > 0
    assert {result["model"] for result in results} == {TrainedDetector.load(made[0]).name}
    assert found["loss"]["champion"] > 0
    assert found["loss"]["shadow"] > 0
    assert 'gatewatch_shadow_readings_total{model="pumps"}' in service.get("/metrics").text


def test_what_is_asked_of_the_streams_is_asked_of_a_shadow_too(service: TestClient, made: list[Path]) -> None:
    """Policies, and windows in which nothing is learned; the readings before the shadow are replayed by the same."""
    sent, window = mixed(100), range(START_MS // 1000 + 60 * 30, START_MS // 1000 + 60 * 60)
    policy = {"pattern": "pump-*", "sensitivity": 1.5, "ignore": ["flow"]}
    service.put("/v1/policies", json={"policies": [policy]}).raise_for_status()
    start, end = (datetime.fromtimestamp(at, UTC).isoformat() for at in (window[0], window[-1]))
    service.put(
        "/v1/windows/seals", json={"stream": "pump-*", "skip": "learning", "start": start, "end": end}
    ).raise_for_status()
    ignored = np.array([[channel == "flow" for channel in CHANNELS]])
    asked = replace(nothing_asked(1, len(CHANNELS)), sensitivity=np.array([1.5]), ignored=ignored)
    post(service, sent[:160])
    service.put(SHADOW, json={"version": 2, "share": 1}).raise_for_status()
    for at in range(160, 400, 40):
        post(service, sent[at : at + 40])
    whole, before = (expected(made, some, asked, window) for some in (sent, sent[:160]))
    found = compared(service, whole["readings"] - before["readings"])
    assert found["readings"] == whole["readings"] - before["readings"]
    for name in ("anomalous", "alerts"):
        assert found[name] == {who: number - before[name][who] for who, number in whole[name].items()}
    assert whole["anomalous"] != expected(made, sent, asked)["anomalous"] != expected(made, sent)["anomalous"]


def test_two_processes_that_share_streams_compare_each_reading_once(
    settings: Make, repository: Repository, made: list[Path]
) -> None:
    sent, given = mixed(60), settings(models=repository.url)
    with TestClient(create_app(given)) as one, TestClient(create_app(given)) as other:
        one.put("/v1/rules", json=PUMPS).raise_for_status()
        one.put(SHADOW, json={"version": 2, "share": 1}).raise_for_status()
        time.sleep(1.5)  # within two seconds the other knows it
        for at in range(0, len(sent), 4):
            post((one, other)[at // 4 % 2], sent[at : at + 4])
        whole = expected(made, sent)
        found = compared(one, whole["readings"])
    assert {name: found[name] for name in whole} == whole
    assert found["dropped"] == 0


@pytest.mark.parametrize("answers", ["general", "trained"])
def test_a_model_for_any_channels_and_a_trained_one_stand_beside_each_other(
    settings: Make, made: list[Path], tmp_path: Path, answers: str
) -> None:
    """The streams of the general one get another channel in the middle, which the trained one does not know."""
    general = model_folder("general")
    versions = (general, made[0]) if answers == "general" else (made[0], general)
    repository = pumps_in(tmp_path / "models", versions)
    sent = mixed(120)
    if answers == "general":
        sent[240:] = [{**one, "values": {**one["values"], "speed": 2.0}} for one in sent[240:]]
    with TestClient(create_app(settings(models=repository.url))) as client:
        client.put("/v1/rules", json=PUMPS).raise_for_status()
        client.put(SHADOW, json={"version": 2, "share": 1}).raise_for_status()
        results = [result for at in range(0, 480, 120) for result in post(client, sent[at : at + 120])]
        judged = sum(result["status"] != "warming_up" for result in results)
        found = compared(client, round(0.7 * judged))
    assert {result["model"] for result in results} == {repository.log.model("pumps").named("1").digest}
    assert (found["dropped"], found["readings"] >= round(0.7 * judged)) == (0, True), found
    assert all(loss is not None and 0 < loss < 10 for loss in found["loss"].values())


def test_a_share_of_the_streams_is_followed_the_same_in_every_process() -> None:
    names = [StreamKey("default", f"pump-{number}") for number in range(10_000)]
    assert 900 < sum(in_share(name, 0.1) for name in names) < 1100
    assert all(in_share(name, 0.5) for name in names if in_share(name, 0.1))


def test_a_shadow_ends_with_what_it_came_to_and_another_begins_at_zero(service: TestClient) -> None:
    sent = mixed(40)
    service.put(SHADOW, json={"version": 2, "share": 1}).raise_for_status()
    post(service, sent[:80])
    known = compared(service, 40)
    ended = service.delete(SHADOW)
    assert ended.json()["readings"] >= known["readings"] > 0
    assert service.get(SHADOW).status_code == 404
    assert service.delete(SHADOW).status_code == 404
    assert service.put(SHADOW, json={"version": 2, "share": 0.5}).json()["readings"] == 0


def test_more_streams_than_a_shadow_may_follow_are_dropped_and_counted(settings: Make, repository: Repository) -> None:
    with TestClient(create_app(settings(models=repository.url, shadow_streams=1))) as client:
        client.put("/v1/rules", json=PUMPS).raise_for_status()
        client.put(SHADOW, json={"version": 2, "share": 1}).raise_for_status()
        results = post(client, mixed(40))
        found = compared(client, 20)
    assert {result["status"] for result in results} <= {"warming_up", "normal", "anomalous"}
    assert found["dropped"] == 120


def test_a_promotion_leaves_the_shadow_with_nothing_to_compare(service: TestClient) -> None:
    service.put(SHADOW, json={"version": 2, "share": 1}).raise_for_status()
    service.post("/v1/models/pumps/promote", json={"version": 2}).raise_for_status()
    post(service, mixed(20))
    time.sleep(2.5)
    assert service.get(SHADOW).json()["readings"] == 0


def test_what_cannot_be_a_shadow_is_refused(service: TestClient) -> None:
    for version, share, status, word in (
        (9, 0.1, 404, "has no version 9"),
        (1, 0.1, 422, "nothing to compare it with"),
        (3, 0.1, 422, "has the channels speed"),
        (2, 0, 422, "share"),
        (2, 1.5, 422, "share"),
    ):
        refused = service.put(SHADOW, json={"version": version, "share": share})
        assert (refused.status_code, word in refused.json()["detail"]) == (status, True), refused.text
    service.put("/v1/rules", json={}).raise_for_status()
    refused = service.put(SHADOW, json={"version": 2})
    assert (refused.status_code, "no rule gives streams" in refused.json()["detail"]) == (422, True)
    assert service.get(SHADOW).status_code == 404
