"""Thresholds learned for a network mean, in service, the false-alarm rate that was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.artefact import Artefact, load_artefact
from models.detector import Detector
from models.recordings import Recording
from models.scan import scan_together
from models.training.calibration import Split, calibrate_manifest
from tests.conftest import START_MS, make_artefact

STREAMS, ROWS, HELD_OUT_FROM = 16, 400, 100
RATE = 0.01


def noise(channels: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((STREAMS, ROWS, channels))


def recordings(values: NDArray[np.float64]) -> list[Recording]:
    names = tuple(f"c{at}" for at in range(values.shape[2]))
    times = START_MS + 60_000 * np.arange(ROWS, dtype=np.int64)
    return [Recording("r", names, times, (3 + rows).astype(np.float32)) for rows in values]


def calibrated(folder: Path, normal: NDArray[np.float64]) -> Detector:
    """An untrained network with thresholds learned on `normal`, for RATE events in a reading and as many levels."""
    names = tuple(f"c{at}" for at in range(normal.shape[2]))
    artefact = load_artefact(make_artefact(folder / "a", channels=names, event_threshold=1.0, level_threshold=1.0))
    splits = [Split(recording, HELD_OUT_FROM) for recording in recordings(normal)]
    manifest = calibrate_manifest(artefact.manifest, artefact.graph, splits, 2 * RATE)
    return Detector(Artefact(manifest, artefact.graph, bytes(8)))


def events(detector: Detector, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The event parts of the scores, in units of the threshold."""
    return np.concatenate([found.parts[HELD_OUT_FROM:, 0] for found in scan_together(detector, recordings(values))])


@pytest.mark.parametrize("channels", [1, 5, 24])
def test_the_rate_of_events_is_kept_however_many_the_channels(tmp_path: Path, channels: int) -> None:
    """The memory of events is capped at twice the threshold; a cap of 2, within the noise of 24 channels, gave 0.15."""
    unseen = events(calibrated(tmp_path, noise(channels, 0)), noise(channels, 1))
    assert (unseen > 1).mean() < 1.5 * RATE
    assert np.quantile(unseen, 1 - RATE) > 0.85


def test_wild_readings_do_not_ring_in_the_threshold(tmp_path: Path) -> None:
    """Live, the memory of a wild reading is cut to twice the threshold; so it is when the threshold is learned."""
    normal = noise(2, 0)
    normal[:, ROWS // 2] = 1e4  # 0.003 of the held-out readings; each would ring for 13
    detector = calibrated(tmp_path, normal)
    assert 0.7 * RATE < (events(detector, normal) > 1).mean() <= RATE
