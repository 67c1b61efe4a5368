"""What is expected next, over HTTP: from the state as it is, for every model; nothing moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.detector import Detector
from gatewatch.models.detectors.forecasting import cadence_ms, forecast
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.service.app import create_app
from gatewatch.service.settings import Settings
from tests.laws.test_architectures import LIVE
from tests.support.samples import START_MS, make_artefact, post, readings

STEP_MS = 60_000


def asked(client: TestClient, stream: str, count: int) -> dict[str, Any]:
    reply = client.get(f"/v1/streams/{stream}/forecast", params={"readings": count})
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def test_each_forecast_is_what_the_reading_that_equals_the_one_before_is_held_against(client: TestClient) -> None:
    sent = readings("pump", 80)
    post(client, sent)
    before = client.get("/v1/streams/pump").json()
    ahead = asked(client, "pump", 5)
    assert ahead["readings"] == 80
    assert [len(ahead["forecast"]), ahead["step_s"]] == [5, 60.0]
    for at, one in enumerate(ahead["forecast"]):
        values = {channel: band[1] for channel, band in one["expected"].items()}
        (result,) = post(client, [{"stream": "pump", "seq": 80 + at, "timestamp": one["timestamp"], "values": values}])
        for channel, band in result["expected"].items():
            assert band[1] == pytest.approx(values[channel], rel=1e-5)
            if at == 0:
                assert one["expected"][channel] == pytest.approx(band, rel=1e-5)
            assert one["expected"][channel][2] - values[channel] >= 0.999 * (band[2] - band[1])
    assert before["readings"] == 80


def test_asking_moves_nothing(client: TestClient) -> None:
    sent = readings("pump", 70)
    twin = [{**one, "stream": "twin"} for one in sent]
    post(client, sent[:60] + twin[:60])
    before = client.get("/v1/streams/pump").json()
    asked(client, "pump", 100)
    assert client.get("/v1/streams/pump").json() == before
    results, of_twin = post(client, sent[60:]), post(client, twin[60:])
    assert [one["score"] for one in results] == [one["score"] for one in of_twin]


def test_how_many_may_be_asked_for_is_bounded_and_said(client: TestClient) -> None:
    post(client, readings("pump", 3))
    for wrong in ("0", "101", "many", "1e9"):
        reply = client.get("/v1/streams/pump/forecast", params={"readings": wrong})
        assert reply.status_code == 422
        assert "readings" in reply.json()["detail"]
    assert client.get("/v1/streams/nobody/forecast").status_code == 404
    client.put("/v1/streams/settings-only", json={"on_gap": "hold"}).raise_for_status()
    assert client.get("/v1/streams/settings-only/forecast").status_code == 404


def test_a_stream_without_a_cadence_has_no_times_and_a_young_one_no_band_behind_the_first(client: TestClient) -> None:
    post(client, readings("pump", 1))
    ahead = asked(client, "pump", 3)
    assert ahead["step_s"] is None
    assert [one["timestamp"] for one in ahead["forecast"]] == [None] * 3
    post(client, readings("pump", 40)[1:])
    first, second = asked(client, "pump", 2)["forecast"]
    assert None not in first["expected"]["flow"]
    assert (second["expected"]["flow"][0], second["expected"]["flow"][2]) == (None, None)
    assert second["expected"]["flow"][1] is not None


def test_the_general_model_forecasts_the_channels_that_a_stream_has_sent(settings: Callable[..., Settings]) -> None:
    with TestClient(create_app(settings(model="general"))) as client:
        for at in range(60):
            values = {"flow": 5 + np.sin(at / 5)} | ({"heat": 20.0 + at % 3} if at >= 40 else {})
            post(client, [{"stream": "any", "timestamp": START_MS / 1000 + 60 * at, "values": values}])
        ahead = asked(client, "any", 30)
        assert set(ahead["forecast"][0]["expected"]) == {"flow", "heat"}
        assert ahead["step_s"] == 60
        mids = [one["expected"]["flow"][1] for one in ahead["forecast"]]
        assert 2 < min(mids) < max(mids) < 8


def test_what_a_policy_asks_of_the_stream_is_in_its_forecast(client: TestClient) -> None:
    client.put("/v1/policies", json={"streams": {"pump": {"ignore": ["flow"], "sensitivity": 0.5}}}).raise_for_status()
    post(client, readings("pump", 80))
    (first,) = asked(client, "pump", 1)["forecast"]
    (result,) = post(client, readings("pump", 81)[80:])
    for channel, band in result["expected"].items():
        assert first["expected"][channel] == pytest.approx(band, rel=1e-5)


def detector_of(name: str, folder: Path) -> Detector:
    if name == "general":
        return load_detector(model_folder("general"), ("pressure", "flow"))
    return load_detector(make_artefact(folder, architecture=name))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*LIVE, "general"])
def test_a_forecast_is_the_detectors_own_fed_back_and_its_band_never_grows_narrower(name: str, tmp_path: Path) -> None:
    detector = detector_of(name, tmp_path / "model")
    rng, count, ahead = np.random.default_rng(0), 96, 6
    values = 3 + np.sin(np.arange(count)[:, None] / (4, 7)) + 0.1 * rng.normal(size=(count, 2))
    times = START_MS + STEP_MS * np.arange(count + ahead)
    state = detector.initial(1)
    for at in range(count):
        detector.advance(values[at : at + 1].copy(), times[at : at + 1], state)
    before = state.tobytes()
    mid, half = forecast(detector, state, times[count:], values, times[:count])
    assert state.tobytes() == before
    assert cadence_ms(times[:count]) == STEP_MS
    for at in range(ahead):  # whatever comes, the expectation of it was made before
        wild = detector.advance(np.full((1, 2), 77.0), times[count + at : count + at + 1], state.copy())
        np.testing.assert_array_equal(wild.mid[0], mid[at])
        detector.advance(mid[at : at + 1].copy(), times[count + at : count + at + 1], state)
    assert np.isfinite(half).all()
    assert (np.diff(half, axis=0) >= 0).all()


def test_a_random_walk_is_forecast_with_a_band_that_widens_and_holds() -> None:
    detector = detector_of("general", Path())
    rng, count, ahead = np.random.default_rng(1), 600, 30
    values = rng.normal(size=(count + ahead, 2)).cumsum(axis=0)
    times = START_MS + STEP_MS * np.arange(count + ahead)
    state = detector.initial(1)
    for at in range(count):
        detector.advance(values[at : at + 1].copy(), times[at : at + 1], state)
    mid, half = forecast(detector, state, times[count:], values[:count], times[:count])
    assert (half[-1] > 2 * half[0]).all()
    assert (np.abs(values[count:] - mid) <= half).all()
