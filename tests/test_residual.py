"""The four parts of the score, and what an anomaly may teach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.residual import REASONS, Judged, ResidualCalibration, judge, state_fields

CALIBRATION = ResidualCalibration(
    error_scale=np.ones(2),
    event_threshold=4.0,
    level_threshold=3.0,
    still_limit=np.array([10.0, np.inf]),
    absent_limit=np.array([5.0, 5.0]),
)


def run(rows: list[list[float]], forecast: float = 0.0, calibration: ResidualCalibration = CALIBRATION) -> list[Judged]:
    """Judge one stream's readings, in standardised units, against a constant forecast."""
    states = np.zeros(1, state_fields(2))
    states["value"] = np.nan
    judged = []
    for row in rows:
        x = np.array([row], np.float32)
        judged.append(judge(x, x.astype(np.float64), np.full((1, 2), forecast), states, calibration))
    return judged


def noise(count: int, seed: int = 0) -> list[list[float]]:
    return np.random.default_rng(seed).normal(0, 0.5, (count, 2)).tolist()


def test_a_spike_is_an_event_on_its_channel_and_soon_forgotten() -> None:
    judged = run([*noise(20), [0.1, 1e6], *noise(10, 1)])
    spike = judged[20]
    assert spike.score[0] > 1e5
    assert REASONS[spike.reason[0]] == "event"
    assert spike.attribution[0, 1] > 0.999
    assert (np.array([j.score[0] for j in judged[24:]]) < 1).all()


def test_one_channel_is_enough_and_many_slightly_odd_ones_are_too() -> None:
    states = np.zeros(1, state_fields(38))
    wide = ResidualCalibration(np.ones(38), 4.0, 99.0, np.full(38, np.inf), np.full(38, 9.0))
    one = np.full((1, 38), 0.01, np.float32)
    one[0, 7] = 9.0
    zero = np.zeros((1, 38))
    assert judge(one, one.astype(float), zero, states.copy(), wide).score[0] > 1
    many = np.full((1, 38), 4.0, np.float32)
    assert judge(many, many.astype(float), zero, states.copy(), wide).score[0] > 1


def test_a_lasting_change_of_level_is_noticed_and_accepted_in_the_end() -> None:
    """A shift of 6 spreads, well forecast: reported at once, accepted after about 1,000 x 6/3 readings, not before."""
    shifted = (np.array(noise(4000)) + 6).tolist()
    scores = np.array([j.score[0] for j in run(shifted, forecast=6.0)])
    assert scores[30] > 1
    assert (scores[30:500] > 1).all()
    assert (scores[-500:] < 1).all()


def test_the_baseline_never_moves_faster_than_stated() -> None:
    states = np.zeros(1, state_fields(2))
    before = 0.0
    for value in (1e30, -1e30, 1e3, 5.0):
        x = np.array([[value, 0]], np.float32)
        judge(x, x.astype(np.float64), np.zeros((1, 2)), states, CALIBRATION)
        assert abs(float(states["baseline"][0, 0]) - before) <= 0.003 + 1e-9
        before = float(states["baseline"][0, 0])


def test_a_channel_that_stands_still_is_named() -> None:
    judged = run([[0.25, value] for _, value in noise(15)])
    assert judged[9].score[0] < 1
    assert REASONS[judged[12].reason[0]] == "still"
    assert judged[12].score[0] > 1
    assert judged[12].attribution[0, 0] == 1


def test_a_channel_constant_by_nature_may_stand_still() -> None:
    judged = run([[value, 0.25] for value, _ in noise(100)])
    assert max(j.parts[0, 2] for j in judged) < 0.5


def test_missing_values_are_counted_and_not_judged() -> None:
    judged = run([[np.nan, value] for _, value in noise(8)])
    assert judged[4].score[0] <= 1
    assert REASONS[judged[5].reason[0]] == "absent"
    assert judged[5].parts[0, 0] < 0.5
    everything = run([[np.nan, np.nan]])[0]
    assert everything.attribution[0].sum() == pytest.approx(1)


def test_a_higher_threshold_gives_a_lower_score() -> None:
    rows = [*noise(5), [3.0, 7.0]]
    strict, lax = (
        run(rows)[-1],
        run(rows, calibration=replace(CALIBRATION, event_threshold=8.0, level_threshold=6.0))[-1],
    )
    assert lax.score[0] == pytest.approx(strict.score[0] / 2)
