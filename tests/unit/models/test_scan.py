"""Scanning behind a training part: the state is carried on, an incident is not."""

from __future__ import annotations

import numpy as np
import pytest

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import Scan, scan, scan_after, scan_in_order, scan_trained_on_beginning, summary
from tests.support.samples import CHANNELS, START_MS

TRAINED = 60


def spiked(*rows: int, count: int = 120) -> Recording:
    values = np.random.default_rng(0).normal(3, 0.3, (count, len(CHANNELS))).astype(np.float32)
    values[list(rows), 0] = 30
    return Recording("r", CHANNELS, START_MS + 60_000 * np.arange(count, dtype=np.int64), values)


def scanned(detector: TrainedDetector, recording: Recording, by: str) -> Scan:
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
        found.parts[TRAINED:], found.states, found.keeps_budget,
    )  # fmt: skip


@pytest.mark.parametrize("by", ["--train", "--train-rows"])
@pytest.mark.parametrize("spikes", [(90,), (50, 90), (50, 90, 110)])
def test_a_spike_in_the_training_part_does_not_swallow_the_alert_of_the_next(
    detector: TrainedDetector, by: str, spikes: tuple[int, ...]
) -> None:
    assert np.flatnonzero(scanned(detector, spiked(*spikes), by).alert).tolist() == [90 - TRAINED]


@pytest.mark.parametrize("by", ["--train", "--train-rows"])
def test_scores_behind_a_training_part_are_those_of_an_unbroken_scan(detector: TrainedDetector, by: str) -> None:
    recording = spiked(50, 90)
    found, whole = scanned(detector, recording, by), scan(detector, recording)
    for name in ("score", "status", "reason", "attribution", "expected", "residual", "parts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name)[TRAINED:])
    assert found.states["h"].tobytes() == whole.states["h"].tobytes()


def test_files_of_one_stream_in_order_are_scanned_as_one(detector: TrainedDetector) -> None:
    whole = spiked(70, 110)
    parts = [whole.rows(start, start + 30) for start in range(0, 120, 30)]
    found = list(scan_in_order(detector, parts))
    for name in ("score", "status", "alert", "expected"):
        joined = np.concatenate([getattr(one, name) for one in found])
        np.testing.assert_array_equal(joined, getattr(scan(detector, whole), name))


def test_a_summary_says_what_was_not_judged(detector: TrainedDetector) -> None:
    assert summary([scan(detector, spiked())]).endswith("readings were never judged: in one warm-up")


@pytest.mark.parametrize(("interval_ms", "allowed", "kept"), [(1, 1, False), (60_000, 1, True), (1, 1000, True)])
def test_a_budget_that_cannot_be_kept_is_said(interval_ms: int, allowed: float, kept: bool) -> None:
    recording = spiked()
    fast = Recording("r", CHANNELS, START_MS + interval_ms * np.arange(len(recording)), recording.values)
    found = scan(load_detector(model_folder("general"), CHANNELS, allowed), fast)
    assert found.keeps_budget == kept
    assert ("the alert budget cannot be kept" in summary([found])) == (not kept)
