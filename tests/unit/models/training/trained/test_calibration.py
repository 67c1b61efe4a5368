"""Thresholds learned for a network mean, in service, the false-alarm rate that was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gatewatch.models.artefact.files import Artefact, load_artefact
from gatewatch.models.detectors.detector import ANOMALOUS
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.evaluation.threshold import EVENT_SHARE
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import scan, scan_together
from gatewatch.models.training.trained.calibration import SWITCH_SHARE, Split, calibrate_manifest, neutral
from gatewatch.models.training.trained.train import model_card
from tests.support.samples import START_MS, make_artefact

STREAMS, ROWS, HELD_OUT_FROM = 16, 400, 100
RATE = 0.01


def noise(channels: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((STREAMS, ROWS, channels))


def recordings(values: NDArray[np.float64]) -> list[Recording]:
    names = tuple(f"c{at}" for at in range(values.shape[2]))
    times = START_MS + 60_000 * np.arange(ROWS, dtype=np.int64)
    return [Recording("r", names, times, (3 + rows).astype(np.float32)) for rows in values]


def calibrated(folder: Path, normal: NDArray[np.float64]) -> TrainedDetector:
    """An untrained network with thresholds learned on `normal`, for RATE events in a reading."""
    names = tuple(f"c{at}" for at in range(normal.shape[2]))
    artefact = load_artefact(make_artefact(folder / "a", channels=names, event_threshold=1.0, level_threshold=1.0))
    splits = [Split(recording, HELD_OUT_FROM) for recording in recordings(normal)]
    manifest = calibrate_manifest(artefact.manifest, artefact.graph, splits, RATE / EVENT_SHARE)  # type: ignore[arg-type]
    return TrainedDetector(Artefact(manifest, artefact.graph, bytes(8)))


def events(detector: TrainedDetector, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The event parts of the scores, in units of the threshold."""
    return np.concatenate([found.parts[HELD_OUT_FROM:, 0] for found in scan_together(detector, recordings(values))])


@pytest.mark.parametrize("channels", [1, 5, 24])
def test_the_rate_of_events_is_kept_however_many_the_channels(tmp_path: Path, channels: int) -> None:
    unseen = events(calibrated(tmp_path, noise(channels, 0)), noise(channels, 1))
    assert (unseen > 1).mean() < 1.5 * RATE
    assert np.quantile(unseen, 1 - RATE) > 0.85


def test_wild_readings_do_not_ring_in_the_threshold(tmp_path: Path) -> None:
    """Live, the memory of a wild reading is cut; so it is when the threshold is learned."""
    normal = noise(2, 0)
    normal[:, ROWS // 2] = 1e4  # 0.003 of the held-out readings; each would ring for 13
    detector = calibrated(tmp_path, normal)
    kept = (events(detector, normal) > 1).sum() / (STREAMS * ROWS)  # none lies before the held-out parts
    assert 0.7 * RATE < kept <= 1.01 * RATE


@pytest.mark.parametrize(("rise", "confidence"), [(0.0, "high"), (0.02, "low"), (-0.02, "low")])
def test_recordings_whose_end_is_beyond_all_before_it_are_not_trusted(
    tmp_path: Path, rise: float, confidence: str
) -> None:
    """Each reading of a trend is far from alike to the next, so that there seem to be many independent ones."""
    normal = noise(2, 0)
    normal[:, :, 1] += rise * np.arange(ROWS) + 3 * np.sin(np.arange(ROWS) / 4)
    found = calibrated(tmp_path, normal).manifest.calibration
    assert found.confidence == confidence


def learned_from_few(folder: Path, normal: NDArray[np.float64]) -> tuple[TrainedDetector, Recording]:
    """An untrained network with thresholds learned on the (rows, C) readings, too few for the rate; and those."""
    names = tuple(f"c{at}" for at in range(normal.shape[1]))
    times = START_MS + 60_000 * np.arange(len(normal), dtype=np.int64)
    recording = Recording("r", names, times, normal.astype(np.float32))
    scaling = Scaling.fit([recording])
    artefact = load_artefact(make_artefact(folder / "a", channels=names))
    described, neutral_calibration = neutral(scaling, names, [""] * len(names))
    provisional = artefact.manifest.model_copy(update={"channels": described, "calibration": neutral_calibration})
    manifest = calibrate_manifest(provisional, artefact.graph, [Split(recording, len(normal) * 3 // 4)], 0.001)  # type: ignore[arg-type]
    assert manifest.calibration.confidence == "low"
    return TrainedDetector(Artefact(manifest, artefact.graph, bytes(8))), recording


@pytest.mark.parametrize(("bumps", "normal"), [((100, 400), True), ((100,), False)])
def test_what_few_recordings_show_twice_is_normal_and_what_they_show_once_is_not(
    tmp_path: Path, bumps: tuple[int, ...], normal: bool
) -> None:
    values = np.random.default_rng(1).standard_normal((600, 1))
    values[list(bumps)] = 40.0
    detector, recording = learned_from_few(tmp_path, values)
    assert (scan(detector, recording).parts[100, 0] < 1.001) == normal


def test_a_stream_begins_where_its_recordings_leave_it(tmp_path: Path) -> None:
    """Edges in a fiftieth of the readings hardly teach: begun with them, the mean of misses would fall by half."""
    values = 0.1 * np.random.default_rng(0).standard_normal((2_000, 1))
    values[25::50] += 10.0
    detector, recording = learned_from_few(tmp_path, values)
    found = scan(detector, recording)
    assert abs(found.states["usual"][0]) < 0.1 * detector.calibration.event_mean


def reach_of_levels(folder: Path, values: NDArray[np.float64]) -> float:
    """How far from home a level is anomalous, in units of the values' largest deviation."""
    detector, _ = learned_from_few(folder, values[:, None])
    told = detector.calibration.level_threshold * detector.calibration.level_scale[0] * detector.scaling.spread[0]
    return float(told / np.abs(values - detector.scaling.center[0]).max())


@pytest.mark.parametrize("seed", range(4))
def test_a_slow_level_may_go_where_few_readings_did_not_and_a_cycle_may_not(tmp_path: Path, seed: int) -> None:
    """Both move as slowly; but ten periods show where a cycle's ends are, and three excursions of a level hardly."""
    rng, rows = np.random.default_rng(seed), np.arange(600)
    slow = np.convolve(rng.standard_normal(len(rows) + 99), np.ones(100), "valid") / 10
    cycle = np.sin(2 * np.pi * rows / 60) + 0.1 * rng.standard_normal(len(rows))
    assert reach_of_levels(tmp_path / "slow", slow) > 3
    assert reach_of_levels(tmp_path / "cycle", cycle) < 2


def test_a_command_is_not_blamed_for_what_a_sensor_does(tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal((600, 2))
    values[:, 1] = np.arange(600) // 50 % 2
    values[599] = (12.0, 0.0)
    detector, recording = learned_from_few(tmp_path, values)
    assert detector.manifest.training["switches"] == ["c1"]
    assert "taken for commands, which the forecast is shown and which hardly raise the score: c1." in model_card(
        detector.manifest
    )
    assert scan(detector, recording).attribution[599, 1] < 1e-3
    command = detector.manifest.channels[1]
    assert command.event_scale * command.spread == pytest.approx(1 / SWITCH_SHARE)


def test_liveliness_is_learned_but_of_what_may_rest(tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal((600, 3))
    values[:, 1] = np.arange(600) // 50 % 2
    values[:, 2] = 7.0
    detector, recording = learned_from_few(tmp_path, values)
    noise, switch, constant = detector.manifest.channels
    changes = np.abs(np.diff(recording.values[:, 0].astype(np.float64)))
    assert noise.usual_lively * noise.change_scale == pytest.approx(changes.mean())
    assert noise.quiet_scale == 1.0
    assert switch.quiet_scale is None
    assert constant.quiet_scale is None


def odd(kind: str, rows: int) -> NDArray[np.float64]:
    """(rows, 3) normal readings of a kind that scales and quantiles find hard; the third channel is plain noise."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((rows, 3))
    if kind == "constant":
        x[:, :2] = (7.0, 0.0)
    elif kind == "two-valued":
        x[:, :2] = rng.random((rows, 2)) < (0.5, 0.003)
    elif kind == "magnitudes":
        x[:, :2] *= (1e9, 1e-6)
    elif kind == "missing":
        x[rng.random((rows, 3)) < 0.9] = np.nan
    else:
        x[:, 0] = np.arange(rows)
        x[:, 1] = np.cumsum(rng.random(rows))
    return x


@pytest.mark.parametrize("kind", ["constant", "two-valued", "magnitudes", "missing", "growing"])
def test_odd_channels_score_finite_and_raise_no_storm(tmp_path: Path, kind: str) -> None:
    """Learned from 600 readings, scanned over more. What only grows leaves the level it had, and is accepted."""
    rows = odd(kind, 5000 if kind == "growing" else 3000)
    detector, _ = learned_from_few(tmp_path, rows[:600])
    times = START_MS + 60_000 * np.arange(len(rows), dtype=np.int64)
    found = scan(detector, Recording("r", detector.channels, times, rows.astype(np.float32)))
    assert np.isfinite(found.score).all()
    assert found.alert[600:].sum() <= 4
    assert (found.status[-600:] == ANOMALOUS).mean() < 0.005
