"""Scanning behind a training part: the state is carried on, an incident is not."""

from __future__ import annotations

import numpy as np
import pytest

from models.detector import Detector
from models.recordings import Recording
from models.scan import Scan, scan, scan_after, scan_trained_on_beginning
from tests.conftest import CHANNELS, START_MS

TRAINED = 60


def spiked(*rows: int, count: int = 120) -> Recording:
    values = np.random.default_rng(0).normal(3, 0.3, (count, len(CHANNELS))).astype(np.float32)
    values[list(rows), 0] = 30
    return Recording("r", CHANNELS, START_MS + 60_000 * np.arange(count, dtype=np.int64), values)


def scanned(detector: Detector, recording: Recording, by: str) -> Scan:
    """The rows behind the training part, judged by one of the two ways in which `gatewatch scan` trains first."""
    if by == "--train":
        return scan_after(detector, recording.rows(0, TRAINED), recording.rows(TRAINED))
    found = scan_trained_on_beginning(detector, recording, TRAINED)
    assert len(found.score) == len(found.recording) == len(recording)
    assert not found.alert[:TRAINED].any()
    assert not found.status[:TRAINED].any()
    return Scan(
        found.recording.rows(TRAINED), found.score[TRAINED:], found.status[TRAINED:], found.reason[TRAINED:],
        found.alert[TRAINED:], found.attribution[TRAINED:], found.expected[TRAINED:], found.residual[TRAINED:],
        found.parts[TRAINED:], found.states,
    )  # fmt: skip


@pytest.mark.parametrize("by", ["--train", "--train-rows"])
@pytest.mark.parametrize("spikes", [(90,), (50, 90), (50, 90, 110)])
def test_a_spike_in_the_training_part_does_not_swallow_the_alert_of_the_next(
    detector: Detector, by: str, spikes: tuple[int, ...]
) -> None:
    assert np.flatnonzero(scanned(detector, spiked(*spikes), by).alert).tolist() == [90 - TRAINED]


@pytest.mark.parametrize("by", ["--train", "--train-rows"])
def test_scores_behind_a_training_part_are_those_of_an_unbroken_scan(detector: Detector, by: str) -> None:
    recording = spiked(50, 90)
    found, whole = scanned(detector, recording, by), scan(detector, recording)
    for name in ("score", "status", "reason", "attribution", "expected", "residual", "parts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name)[TRAINED:])
    assert found.states["h"].tobytes() == whole.states["h"].tobytes()
