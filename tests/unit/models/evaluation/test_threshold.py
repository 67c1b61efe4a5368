"""A threshold means the false-alarm rate it was learned for."""

from __future__ import annotations

import numpy as np
import pytest

from gatewatch.models.errors import CalibrationError
from gatewatch.models.evaluation.threshold import calibrate, effective_readings


def test_the_rate_is_kept_on_unseen_readings() -> None:
    rng = np.random.default_rng(0)
    threshold = calibrate([rng.exponential(size=50_000)], 0.01)
    kept = float((rng.exponential(size=200_000) > threshold.value).mean())
    assert threshold.confidence == "high"
    assert 0.01 / 1.5 < kept < 0.01 * 1.5


def test_with_few_readings_the_tail_is_extrapolated_and_said_so() -> None:
    rng = np.random.default_rng(1)
    scores = rng.exponential(size=500)
    threshold = calibrate([scores], 0.0005)
    assert threshold.confidence == "low"
    assert 5 < threshold.value < 12  # the true quantile is 7.6


def test_confidence_counts_independent_readings_not_rows() -> None:
    rng = np.random.default_rng(3)
    white = rng.normal(size=20_000)
    smooth = np.convolve(rng.normal(size=20_049), np.ones(50) / 50, "valid")
    assert len(white) == len(smooth)
    assert calibrate([white], 0.001).confidence == "high"
    assert calibrate([smooth], 0.001).confidence == "low"


def test_correlated_readings_are_worth_less() -> None:
    rng = np.random.default_rng(2)
    white = rng.normal(size=4000)
    smooth = np.convolve(rng.normal(size=4100), np.ones(50) / 50, "valid")[:4000]
    assert effective_readings(white) > 2000
    assert effective_readings(smooth) < 400
    assert effective_readings(np.ones(10)) == 10


@pytest.mark.parametrize("rate", [0.0, -1.0, 0.6, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(CalibrationError, match="false-alarm rate"):
        calibrate([np.ones(10)], rate)


def test_scores_that_are_none_are_refused() -> None:
    with pytest.raises(CalibrationError, match="no scores"):
        calibrate([], 0.1)
    with pytest.raises(CalibrationError, match="finite"):
        calibrate([np.array([1.0, np.nan])], 0.1)
