"""A threshold means the false-alarm rate it was learned for; what recurs raises it, what comes once does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gatewatch.models.artefact.files import Manifest, load_artefact
from gatewatch.models.errors import CalibrationError
from gatewatch.models.evaluation.threshold import (
    Tail,
    effective_readings,
    learn_tail,
    threshold,
    threshold_by_incidents,
    threshold_for,
)
from tests.support.samples import make_artefact


def smooth(rng: np.random.Generator, rows: int, readings: int = 50) -> NDArray[np.float64]:
    """Noise of variance 1, averaged over so many readings."""
    return np.convolve(rng.normal(size=rows + readings - 1), np.ones(readings) / readings**0.5, "valid")


def test_the_rate_is_kept_on_unseen_readings() -> None:
    rng = np.random.default_rng(0)
    found = threshold(learn_tail([rng.exponential(size=50_000)]), 0.01)
    kept = float((rng.exponential(size=200_000) > found.value).mean())
    assert found.confidence == "high"
    assert 0.01 / 1.5 < kept < 0.01 * 1.5


def test_the_rate_is_kept_however_correlated_readings_are() -> None:
    rng = np.random.default_rng(0)
    found = threshold(learn_tail([smooth(rng, 100_000)]), 0.01)
    kept = float((smooth(rng, 400_000) > found.value).mean())
    assert found.confidence == "high"
    assert 0.01 / 1.5 < kept < 0.01 * 1.5


def test_with_few_readings_the_tail_is_extrapolated_and_said_so() -> None:
    rng = np.random.default_rng(1)
    found = [threshold(learn_tail([rng.exponential(size=500)]), 0.0005) for _ in range(40)]
    assert {one.confidence for one in found} == {"low"}
    assert np.exp([-one.value for one in found]).mean() < 1.5 * 0.0005
    assert 7 < np.median([one.value for one in found]) < 14  # the quantile is 7.6


def test_confidence_counts_incidents_not_rows() -> None:
    rng = np.random.default_rng(3)
    white, slow = rng.normal(size=20_000), smooth(rng, 20_000)
    assert threshold(learn_tail([white]), 0.001).confidence == "high"
    assert threshold(learn_tail([slow]), 0.001).confidence == "low"


@pytest.mark.parametrize(("nights", "normal"), [(1, False), (2, True), (10, True)])
def test_what_recurs_raises_the_threshold_and_what_came_once_does_not(nights: int, normal: bool) -> None:
    scores = np.random.default_rng(4).exponential(size=10_000)
    for night in range(nights):
        scores[1000 * night + 400 :][:60] += 50
    assert (threshold(learn_tail([scores]), 0.001).value > 40) == normal


def test_a_fault_recurs_only_in_the_channel_that_had_it() -> None:
    """Three outages, each of another channel, are three that came once."""
    scores, kinds = np.random.default_rng(4).exponential(size=10_000), np.zeros(10_000, int)
    for channel in range(3):
        at = slice(3000 * channel + 400, 3000 * channel + 460)
        scores[at] += 50
        kinds[at] = channel
    assert threshold(learn_tail([scores], [kinds]), 0.001).value < 12
    assert threshold(learn_tail([scores]), 0.001).value > 40


def test_few_readings_are_not_believed_to_have_a_thin_tail() -> None:
    scores = np.sin(np.arange(600.0))
    assert threshold(learn_tail([scores]), 0.0005).value < 1.1
    assert threshold(learn_tail([scores], least_scale=0.5), 0.0005).value == pytest.approx(0.5 * np.log(2000))


def test_alerts_are_counted_as_incidents() -> None:
    rng = np.random.default_rng(5)
    tail = learn_tail([smooth(rng, 200_000)])
    value = threshold_by_incidents(tail, 1 / 4000).value
    above = np.flatnonzero(smooth(rng, 400_000) > value)
    assert 100 / 1.5 < (np.diff(above, prepend=-1000) > 10).sum() < 100 * 1.5


def test_scores_that_never_exceed_each_other_have_a_threshold() -> None:
    for rows in (1, 9, 400):
        assert threshold(learn_tail([np.zeros(rows)]), 0.001).value > 0


def test_a_tail_survives_its_way_through_an_artefact() -> None:
    tail = learn_tail([np.random.default_rng(6).exponential(size=5000)], least_scale=0.5)
    again = Tail.of(tail.table())
    assert [threshold(again, rate) for rate in (1e-5, 0.01)] == [threshold(tail, rate) for rate in (1e-5, 0.01)]


def artefact_with_tails(folder: Path) -> Manifest:
    manifest = load_artefact(make_artefact(folder / "a")).manifest
    assert isinstance(manifest, Manifest)
    tail = learn_tail([np.random.default_rng(7).exponential(size=50_000)]).table()
    calibration = manifest.calibration.model_copy(
        update={"event_tail": tail, "level_tail": tail, "effective_readings": 1000.0}
    )
    return manifest.model_copy(update={"calibration": calibration})


def test_another_rate_needs_no_training(tmp_path: Path) -> None:
    manifest = artefact_with_tails(tmp_path)
    strict, lax = (threshold_for(manifest, rate).calibration for rate in (0.0001, 0.01))
    assert strict.event_threshold > 1.5 * lax.event_threshold
    assert (strict.false_alarm_rate, lax.false_alarm_rate) == (0.0001, 0.01)
    assert (strict.confidence, lax.confidence) == ("low", "high")


def test_recordings_worth_few_readings_are_not_trusted(tmp_path: Path) -> None:
    manifest = artefact_with_tails(tmp_path)
    slow = manifest.calibration.model_copy(update={"effective_readings": 5.0})
    assert threshold_for(manifest.model_copy(update={"calibration": slow}), 0.01).calibration.confidence == "low"


def test_alerts_a_week_are_converted_at_the_streams_cadence(tmp_path: Path) -> None:
    by_minutes = artefact_with_tails(tmp_path)
    hourly = by_minutes.model_copy(update={"interval_s": 3600.0})
    minute, hour = (threshold_for(of, alerts_per_week=7).calibration for of in (by_minutes, hourly))
    assert minute.false_alarm_rate == pytest.approx(7 / 10_080, rel=0.3)
    assert hour.false_alarm_rate == pytest.approx(7 / 168, rel=0.6)  # several readings an incident
    assert minute.event_threshold > hour.event_threshold


def test_what_no_rate_can_be_read_from_is_refused(tmp_path: Path) -> None:
    manifest = artefact_with_tails(tmp_path)
    for asked in ({}, {"false_alarm_rate": 0.1, "alerts_per_week": 1.0}):
        with pytest.raises(CalibrationError, match="not both"):
            threshold_for(manifest, **asked)
    with pytest.raises(CalibrationError, match="incidents"):
        threshold_for(manifest, alerts_per_week=0.0)
    without = manifest.model_copy(
        update={"calibration": manifest.calibration.model_copy(update={"level_tail": None}), "format_version": 3}
    )
    with pytest.raises(CalibrationError, match="format 3 keeps no tails"):
        threshold_for(without, 0.01)


def test_correlated_readings_are_worth_less() -> None:
    rng = np.random.default_rng(2)
    assert effective_readings(rng.normal(size=4000)) > 2000
    assert effective_readings(smooth(rng, 4000)) < 400
    assert effective_readings(np.ones(10)) == 10


@pytest.mark.parametrize("rate", [0.0, -1.0, 0.6, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(CalibrationError, match="false-alarm rate"):
        threshold(learn_tail([np.ones(10)]), rate)


def test_scores_that_are_none_are_refused() -> None:
    with pytest.raises(CalibrationError, match="no scores"):
        learn_tail([])
    with pytest.raises(CalibrationError, match="finite"):
        learn_tail([np.array([1.0, np.nan])])


def test_flickers_of_one_excursion_are_one_independent_incident() -> None:
    slow = np.abs(smooth(np.random.default_rng(5), 3_000, 300))
    apart = np.array([len(slow) / effective_readings(slow)])
    plain, independent = learn_tail([slow]), learn_tail([slow], apart=apart)
    assert (plain.levels == independent.levels).all()
    assert (plain.shares == independent.shares).all()
    assert independent.incidents.max() < plain.incidents.max() / 2
    assert threshold(independent, 0.001).value > threshold(plain, 0.001).value


def test_readings_that_are_independent_have_the_tail_they_had() -> None:
    white = np.random.default_rng(5).normal(size=3_000)
    assert learn_tail([white], apart=np.array([1.0])).table() == learn_tail([white]).table()
