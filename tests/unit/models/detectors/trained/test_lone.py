"""One reading of one stream in numbers says what arrays say of many, to the bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.trained.detector import TrainedDetector
from tests.support.lone import require_alike
from tests.support.samples import START_MS


@pytest.mark.parametrize("constant", [False, True])
def test_a_reading_alone_is_judged_and_taken_in_as_in_company(constant: bool) -> None:
    """Spikes, a new level, missing values, a clock that steps, and two channels that stop for longer than they may."""
    detector = TrainedDetector.load(model_folder("demo"))
    if constant:
        detector.calibration = dataclasses.replace(detector.calibration, constant=np.arange(5) == 1)
    rng, rows = np.random.default_rng(1), 2500
    deviation = rng.normal(0, 0.3, (rows, 5)) + np.sin(np.arange(rows)[:, None] / 30)
    deviation[rng.integers(0, rows, 20), rng.integers(0, 5, 20)] += rng.normal(0, 20, 20)
    deviation[400:600] += [0, 0, 8, 0, 0]
    deviation[700:1400, 3], deviation[1700:1900, 3], deviation[800:1900, 4] = 0.5, 0.25, np.nan
    deviation[rng.random((rows, 5)) < 0.02] = np.nan
    values = detector.scaling.restore(deviation)
    values[2400] *= 1e151
    times = START_MS + 60_000 * np.arange(rows)
    times[2000:] -= 7_200_000
    alone, anomalous = require_alike(detector, values, times)
    assert alone > 0.9 * rows
    assert rows / 20 < anomalous < 0.9 * rows


def test_a_state_that_is_damaged_is_left_to_arrays() -> None:
    detector = TrainedDetector.load(model_folder("demo"))
    states, times = detector.initial(1), np.array([START_MS, START_MS + 60_000])
    detector.advance(np.ones((1, 5)), times[:1], states)
    states["noise"][0, 2] = np.nan
    before = states.copy()
    assert detector.advance_alone(np.ones((1, 5)), times[1:], states) is None
    assert states.tobytes() == before.tobytes()


def test_what_comes_again_is_told_alone_as_in_company() -> None:
    detector = TrainedDetector.load(model_folder("demo"))
    deviation = np.random.default_rng(2).normal(0, 0.2, (900, 5))
    deviation[100::60, 1] = 20.0
    times = START_MS + 60_000 * np.arange(len(deviation))
    alone, anomalous = require_alike(detector, detector.scaling.restore(deviation), times)
    assert alone > 0.9 * len(deviation)
    assert anomalous > 10
