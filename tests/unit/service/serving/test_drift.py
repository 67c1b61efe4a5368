"""Drift: a trained model has aged when its streams are no longer those of its recordings; see serving/drift.py."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.serving.drift import Chart, sample

DAY = 20_000
Values = NDArray[np.float64]


def missed_by(detector: TrainedDetector, times: float, shape: tuple[int, ...], rng: np.random.Generator) -> Values:
    """Errors whose mean size is so many times the usual one."""
    calibration = detector.calibration
    usual = calibration.usual_miss * calibration.event_scale * detector.scaling.spread
    return np.asarray(times * usual * rng.normal(0, 1, shape) / np.sqrt(2 / np.pi))


def aged_after(detector: TrainedDetector, kind: str, errors: float, level: float = 0.0, days: int = 40) -> int | None:
    """The days until a chart says so, of readings about `level` spreads off center, missed by so many usual errors."""
    rng, chart = np.random.default_rng(8), Chart()
    scale = detector.scaling
    for day in range(days):
        x = level + rng.normal(0, 1, (500, len(detector.channels)))
        values = scale.center + scale.spread * x
        mid = values - missed_by(detector, errors, values.shape, rng)
        chart.add(DAY + day, *sample(detector, values, mid))
        if chart.drift[kind] >= 1:
            return day
    return None


@pytest.mark.parametrize(
    ("kind", "errors", "level", "after"),
    [
        ("residuals", 1.0, 0.0, None),
        ("residuals", 1.2, 0.0, None),
        ("residuals", 1.5, 0.0, 3),
        ("residuals", 2.0, 0.0, 2),
        ("inputs", 1.0, 0.0, None),
        ("inputs", 1.0, 0.9, None),
        ("inputs", 1.0, 2.0, 1),
    ],
)
def test_a_lasting_change_is_told_after_days_and_what_is_as_in_the_recordings_never(
    detector: TrainedDetector, kind: str, errors: float, level: float, after: int | None
) -> None:
    assert aged_after(detector, kind, errors, level) == after


def test_a_channel_that_stands_still_is_another_input(detector: TrainedDetector) -> None:
    chart, still = Chart(), np.tile(detector.scaling.center, (500, 1))
    for day in range(3):
        chart.add(DAY + day, *sample(detector, still, still))
    assert chart.drift["inputs"] >= 1


def test_outliers_and_missing_values_are_no_drift(detector: TrainedDetector) -> None:
    rng, chart = np.random.default_rng(3), Chart()
    for day in range(20):
        values: Values = detector.scaling.center + detector.scaling.spread * rng.normal(0, 1, (500, 2))
        mid = values - missed_by(detector, 1.0, values.shape, rng)
        values[rng.random(values.shape) < 0.01] = 1e9
        values[rng.random(values.shape) < 0.3] = np.nan
        chart.add(DAY + day, *sample(detector, values, mid))
    assert max(chart.drift.values()) < 1


def test_a_day_with_few_readings_is_counted_with_the_next(detector: TrainedDetector) -> None:
    chart, wild = Chart(), {"residuals": 6.0, "inputs": 36.0}
    assert not chart.add(DAY, {kind: 10 * value for kind, value in wild.items()}, 10)
    assert not chart.add(DAY + 1, {"residuals": 800.0, "inputs": 1000.0}, 1000)
    assert chart.add(DAY + 2, {"residuals": 0.8, "inputs": 1.0}, 1)
    assert chart.drift == {"residuals": 0.0, "inputs": 0.0}
