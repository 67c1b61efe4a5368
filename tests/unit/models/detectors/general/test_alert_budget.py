"""A budget of alerts a week becomes a threshold by the pace of the stream, whatever its clock does."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gatewatch.models.detectors.clock import UNKNOWN
from gatewatch.models.detectors.general.alert_budget import (
    AGAIN,
    REPEATS,
    REST_READINGS,
    WEEK_MS,
    budget_fields,
    comes_again,
    joined,
    note_alerts,
    take_pace,
    thresholds,
    young_thresholds,
)

MINUTE_MS = 60_000


def pace(elapsed_ms: NDArray[np.float64]) -> float:
    """Typical milliseconds between readings, after readings so far apart."""
    states = np.zeros(1, budget_fields())
    for n, elapsed in enumerate([UNKNOWN, *elapsed_ms.astype(np.int64)]):
        take_pace(states, np.array([elapsed]), np.array([n]))
    return float(states["pace_ms"][0])


def regular(rows: int = 300) -> NDArray[np.float64]:
    return np.full(rows, 5.0 * MINUTE_MS)


def test_a_regular_clock_is_known_at_once() -> None:
    assert pace(regular(1)) == pace(regular()) == 5 * MINUTE_MS


@pytest.mark.parametrize("row", [0, 1, 20, 250])
def test_an_outage_does_not_slow_a_stream(row: int) -> None:
    elapsed = regular()
    elapsed[row] = 3 * 24 * 60 * MINUTE_MS
    assert pace(elapsed) == pytest.approx(5 * MINUTE_MS, rel=0.3)
    assert pace(elapsed[: row + 64]) == pytest.approx(5 * MINUTE_MS, rel=1.5)


def test_a_clock_that_steps_changes_no_pace() -> None:
    elapsed = regular()
    elapsed[5::7] = UNKNOWN
    assert pace(elapsed) == 5 * MINUTE_MS


def test_readings_of_one_timestamp_count_as_readings() -> None:
    elapsed = np.tile([60.0 * MINUTE_MS] + [0.0] * 3, 100)
    assert pace(elapsed) == pytest.approx(15 * MINUTE_MS, rel=0.05)


def test_an_irregular_clock_has_the_pace_of_its_mean() -> None:
    elapsed = np.random.default_rng(0).exponential(5 * MINUTE_MS, 2000)
    assert pace(elapsed) == pytest.approx(5 * MINUTE_MS, rel=0.3)


def test_a_stream_that_changes_its_interval_is_followed() -> None:
    elapsed = np.concatenate([regular(), np.full(600, 1000.0)])
    assert pace(elapsed) == pytest.approx(1000, rel=0.1)


def test_more_alerts_or_a_slower_stream_never_raise_the_threshold() -> None:
    states = np.zeros(3, budget_fields())
    states["pace_ms"] = [1000, 60_000, 3_600_000]
    found = np.array([thresholds(states, budget) for budget in (0.1, 0.5, 1, 2, 10, 100)])
    assert (np.diff(found, axis=0) <= 0).all()
    assert (np.diff(found, axis=1) <= 0).all()
    assert (np.diff(joined(found, 200), axis=0) <= 0).all()


def test_a_stream_needs_the_more_the_younger_it_is_and_its_own_threshold_when_it_has_counted_enough() -> None:
    ages = np.array([0, 20, 50, 100, 200, 500, 100_000])
    for threshold in (2.0, 7.5, 14.0):
        found = young_thresholds(np.full(len(ages), threshold), ages)
        assert (np.diff(found, axis=0) <= 0).all()
        assert (found[0] > threshold).all()
        np.testing.assert_array_equal(found[-2:], threshold)


def test_repeats_are_told_until_they_are_used_up_and_then_at_the_rate_of_the_budget() -> None:
    states = np.zeros(1, [*budget_fields(), ("calm", "<u2")])
    states["pace_ms"], states["repeats"] = 60 * MINUTE_MS, REPEATS
    told, weeks = [], 20
    for hour in range(weeks * WEEK_MS // (60 * MINUTE_MS)):
        again = comes_again(states, np.array([1.5 if hour % 24 == 0 else 0.1]), 1.0)
        states["calm"] = 0 if hour % 24 == 0 else states["calm"] + 1
        note_alerts(states, again, again)
        told.append(bool(again[0]))
    assert sum(told[: 9 * 24]) == REPEATS
    assert sum(told[9 * 24 :]) == pytest.approx(weeks, abs=3)


def test_what_is_weak_or_has_not_rested_is_no_repeat() -> None:
    states = np.zeros(3, [*budget_fields(), ("calm", "<u2")])
    states["repeats"], states["calm"] = REPEATS, [REST_READINGS, REST_READINGS, REST_READINGS - 1]
    assert comes_again(states, np.array([AGAIN + 0.1, AGAIN - 0.1, AGAIN + 0.1]), 1.0).tolist() == [True, False, False]
