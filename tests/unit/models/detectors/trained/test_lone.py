"""One reading of one stream in numbers says what arrays say of many, to the bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.detectors.trained.lone import judge_alone
from gatewatch.models.detectors.trained.score import judge


@pytest.mark.parametrize("constant", [False, True])
def test_a_reading_alone_is_judged_as_in_company(constant: bool) -> None:
    """Spikes, a new level, missing values, and two channels that stop for longer than they may, one of them twice."""
    detector = TrainedDetector.load(model_folder("demo"))
    calibration = dataclasses.replace(
        detector.calibration, constant=np.arange(5) == 1 if constant else detector.calibration.constant
    )
    rng, rows = np.random.default_rng(1), 3000
    deviation = rng.normal(0, 0.5, (rows, 5)) + np.sin(np.arange(rows)[:, None] / 30)
    deviation[rng.integers(0, rows, 20), rng.integers(0, 5, 20)] += rng.normal(0, 20, 20)
    deviation[400:600] += [0, 0, 8, 0, 0]
    deviation[700:1400, 3], deviation[1700:1900, 3], deviation[800:1900, 4] = 0.5, 0.25, np.nan
    deviation[rng.random((rows, 5)) < 0.02] = np.nan
    values, states = detector.scaling.restore(deviation), detector.initial(1)
    anomalous = 0
    for row in range(rows):
        now = slice(row, row + 1)
        forecast = np.where(np.isfinite(deviation[now]), deviation[now], 0.0) + rng.normal(0, 0.3, (1, 5))
        seen = (values[now], deviation[now], forecast.astype(np.float32))
        alone = states.copy()
        found, expected = judge_alone(*seen, alone, calibration), judge(*seen, states, calibration)
        assert found is not None
        anomalous += int(expected.score[0] > 1)
        for name in (field.name for field in dataclasses.fields(expected)):
            here, there = getattr(found, name), getattr(expected, name)
            assert (here is None) == (there is None), name
            assert here is None or (here.shape, here.dtype) == (there.shape, there.dtype), name
            assert np.array_equal(here, there), (row, name)
        for name in states.dtype.names or ():
            assert np.array_equal(alone[name], states[name], equal_nan=states[name].dtype.kind == "f"), (row, name)
    assert rows / 20 < anomalous < rows / 2


def test_a_state_that_is_damaged_is_left_to_arrays() -> None:
    detector = TrainedDetector.load(model_folder("demo"))
    states, zeros = detector.initial(1), np.zeros((1, 5))
    states["noise"][0, 2] = np.nan
    before = states.copy()
    assert judge_alone(zeros, zeros, zeros.astype(np.float32), states, detector.calibration) is None
    assert states.tobytes() == before.tobytes()
