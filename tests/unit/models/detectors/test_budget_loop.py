"""The loop holds a stream's alerts near those allowed, slowly and within its bounds."""

from __future__ import annotations

import numpy as np
import pytest

from gatewatch.models.detectors.budget_loop import GAIN, LEAST, LONGEST_MS, MOST, WEEK_MS, alerted, at_bound, drifted

STEP_MS = 300_000
BUDGET = 2.0


def factor_after(weeks: float, usual: float, budget: float = BUDGET, seed: int = 0) -> tuple[float, float]:
    """The factor, and the alerts a week of the second half, of a stream that would alert so often at a factor of 1.

    Scores are exponential above the threshold: a factor of f lets alerts come with the power 1/f - 1 of their rarity.
    """
    chance = np.random.default_rng(seed).exponential(size=int(weeks * WEEK_MS / STEP_MS))
    threshold = -np.log(usual * STEP_MS / WEEK_MS)
    level, least, late = np.zeros(1), np.full(1, LEAST), 0
    for at, size in enumerate(chance):
        level = drifted(level, np.array([budget]), least, np.array([STEP_MS]))
        alert = np.array([size / threshold * np.exp(level[0]) > 1])
        level = alerted(level, least, alert)
        late += int(alert[0]) if at > len(chance) / 2 else 0
    return float(np.exp(level[0])), late / weeks * 2


@pytest.mark.parametrize("usual", [0.3, 2.0, 12.0])
def test_alerts_come_near_those_allowed_whatever_the_stream_does(usual: float) -> None:
    factor, late = factor_after(40, usual)
    assert BUDGET / 1.5 < late < BUDGET * 1.5
    assert (factor < 1) == (usual > BUDGET) or usual == BUDGET


def test_the_factor_stays_within_its_bounds() -> None:
    least, many = np.full(1, LEAST), np.full(1, 1e6)
    level = np.zeros(1)
    for _ in range(100):
        level = alerted(level, least, np.ones(1, bool))
    assert np.exp(level) == pytest.approx(LEAST)
    assert at_bound(level, least)
    level = drifted(level, many, least, np.array([LONGEST_MS]))
    assert np.exp(level) == pytest.approx(MOST)
    assert at_bound(level, least)
    assert not at_bound(np.zeros(1), least)


def test_what_is_like_a_true_alarm_bounds_it_at_once() -> None:
    low, held = np.log(np.array([0.6, 0.6])), np.full(2, BUDGET)
    bounded = drifted(low, held, np.array([0.9, LEAST]), np.zeros(2, np.int64))
    assert np.exp(bounded) == pytest.approx([0.9, 0.6])


def test_an_outage_counts_as_a_day_and_a_clock_set_back_as_nothing() -> None:
    held, least = np.full(3, BUDGET), np.full(3, LEAST)
    level = drifted(np.zeros(3), held, least, np.array([LONGEST_MS, 5 * WEEK_MS, -WEEK_MS]))
    assert level == pytest.approx([GAIN * BUDGET / 7, GAIN * BUDGET / 7, 0.0])


def test_where_no_budget_is_held_there_is_no_factor_and_what_is_no_number_is_none() -> None:
    held, least = np.array([np.nan, BUDGET]), np.full(2, LEAST)
    level = drifted(np.array([0.3, np.nan]), held, least, np.zeros(2, np.int64))
    assert level[0] == 0.0
    assert np.exp(level[1]) == pytest.approx(LEAST)
