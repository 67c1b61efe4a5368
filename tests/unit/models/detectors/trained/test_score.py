"""The four parts of the score, and what an anomaly may teach."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import REASONS
from gatewatch.models.detectors.judged import Judged
from gatewatch.models.detectors.trained.calibrated import ACCEPT_LIMIT, ResidualCalibration
from gatewatch.models.detectors.trained.score import (
    EVENT_LIMIT,
    NOISE_LIMIT,
    TEACHING_READINGS,
    begin,
    judge,
    state_fields,
)


def usual(channels: int, **changes: float) -> ResidualCalibration:
    """What is normal for white noise of standard deviation 0.5 with forecasts of 0."""
    return replace(
        ResidualCalibration(
            event_scale=np.ones(channels),
            usual_miss=np.full(channels, 0.4),
            level_scale=np.ones(channels),
            change_scale=np.full(channels, 0.56),
            usual_lively=np.ones(channels),
            quiet_scale=np.ones(channels),
            still_limit=np.full(channels, np.inf),
            absent_limit=np.full(channels, 9.0),
            event_mean=0.6,
            event_variance=0.1,
            event_threshold=4.0,
            level_threshold=3.0,
            lively_scale=3.0,
            constant=np.zeros(channels, bool),
        ),
        **changes,  # type: ignore[arg-type]
    )


CALIBRATION = replace(usual(2), still_limit=np.array([10.0, np.inf]), absent_limit=np.array([5.0, 5.0]))


def fresh(streams: int, channels: int = 2) -> NDArray[Any]:
    states = np.zeros(streams, state_fields(channels))
    begin(states, usual(channels))
    return states


def run(rows: list[list[float]], forecast: float = 0.0, calibration: ResidualCalibration = CALIBRATION) -> list[Judged]:
    """Judge one stream's readings, in standardised units, against a constant forecast."""
    states = fresh(1)
    judged = []
    for row in rows:
        x = np.array([row])
        judged.append(judge(x, x.astype(np.float64), np.full((1, 2), forecast), states, calibration))
    return judged


def noise(count: int, seed: int = 0) -> list[list[float]]:
    found: list[list[float]] = np.random.default_rng(seed).normal(0, 0.5, (count, 2)).tolist()
    return found


def moved(rows: list[list[float]], *by: float) -> list[list[float]]:
    """The rows with their channels moved by so much."""
    found: list[list[float]] = np.add(rows, by).tolist()
    return found


def test_a_spike_is_an_event_on_its_channel_and_soon_forgotten() -> None:
    judged = run([*noise(20), [0.1, 1e6], *noise(10, 1)])
    spike = judged[20]
    assert spike.score[0] > 1e5
    assert REASONS[spike.reason[0]] == "event"
    assert spike.attribution[0, 1] > 0.999
    assert (np.array([j.score[0] for j in judged[24:]]) < 1).all()


def test_one_channel_is_enough_and_many_slightly_odd_ones_are_too() -> None:
    states = fresh(1, 38)
    wide = usual(38, event_mean=3.0, event_variance=0.2, level_threshold=99.0)
    one = np.full((1, 38), 0.01)
    one[0, 7] = 12.0
    zero = np.zeros((1, 38))
    assert judge(one, one.astype(float), zero, states.copy(), wide).score[0] > 1
    many = np.full((1, 38), 2.5)
    assert judge(many, many.astype(float), zero, states.copy(), wide).score[0] > 1


def test_a_lasting_change_of_level_is_noticed_and_accepted_in_the_end() -> None:
    """A shift of 6 spreads, 2.4 thresholds, well forecast: reported at once, accepted after about 1,000 readings."""
    shifted = (np.array(noise(4000)) + 6).tolist()
    scores = np.array([j.score[0] for j in run(shifted, forecast=6.0)])
    assert (scores[30:500] > 1).all()
    assert (scores[1200:] < 1).all()
    assert scores[1500:].min() > 0.5  # it still differs from the recordings


@pytest.mark.parametrize("shift", [1.5, 6.0, 100.0, 1e6])
def test_a_lasting_change_is_accepted_in_all_parts_though_the_forecast_never_follows(shift: float) -> None:
    """Misses D times as large as usual, and levels at the limit of 4 thresholds, within the times stated."""
    misses = 1000 * (0.15 * np.log(shift / 0.4) + 2)
    readings = int(max(misses, 1000 * np.log(12 / 3))) + 300
    judged = run((np.array(noise(readings + 1000)) + shift).tolist())
    parts = np.array([j.parts[0] for j in judged])
    if shift > 2:
        assert parts[3, 0] > 1
    assert parts[readings:].max() < 1


def test_what_recurs_is_told_each_time() -> None:
    """Twenty incidents of 20 readings, four hours apart at a reading a minute: the last as strange as the first."""
    rows = [row for at in range(20) for row in [*noise(240, at), *moved(noise(20, at), 6, 6)]]
    judged = run(rows)
    for part in (0, 1):
        peaks = np.array([j.parts[0, part] for j in judged]).reshape(20, 260)[:, 240:].max(axis=1)
        assert peaks[0] > 1.5
        assert peaks[-1] > 0.8 * peaks[0]


@pytest.mark.parametrize(("readings", "by", "kept"), [(5, 6.0, 0.9), (20, 3.0, 0.8), (60, 3.0, 0.15)])
def test_each_of_eight_like_events_two_to_five_hours_apart_is_told(readings: int, by: float, kept: float) -> None:
    """At a reading a minute: a short one as strange as the first, an hour-long one near a threshold the eighth time."""
    gaps = np.random.default_rng(1).integers(120, 300, 8).tolist()
    judged = run([row for at, gap in enumerate(gaps) for row in [*noise(gap, at), *moved(noise(readings, at), by, by)]])
    ends = np.cumsum(np.array(gaps) + readings)
    scores = [max(j.score[0] for j in judged[end - readings : end]) for end in ends]
    events = [max(j.parts[0, 0] for j in judged[end - readings : end]) for end in ends]
    assert min(scores) > 1
    assert events[-1] > kept * events[0]


def test_what_fills_a_fifth_of_the_readings_is_learned_in_the_end() -> None:
    """Bursts of 20 readings in every 100."""
    rows = np.array(noise(6000))
    burst = np.arange(6000) % 100 >= 80
    rows[burst, 0] += np.resize([6.0, -6.0], 6000)[burst]
    anomalous = np.array([j.score[0] for j in run(rows.tolist())]) > 1
    assert anomalous[100:200].any()
    assert not anomalous[4000:].any()


def test_an_accepted_level_of_one_channel_does_not_dull_another() -> None:
    """Both thresholds of levels are as if the first channel were where it always was; and its old home is no fault."""
    after = [*moved(noise(60, 1), 6, 5), *noise(60, 2)]
    dulled = run([*moved(noise(4000), 6, 0), *after])
    fresh = run([*noise(4000), *moved(noise(60, 1), 0, 5)])
    assert dulled[3999].parts[0, 1] < 0.5
    assert dulled[4050].parts[0, 1] == pytest.approx(fresh[4050].parts[0, 1], rel=0.05)
    assert dulled[4119].parts[0, 1] < 0.5


def test_the_first_step_of_a_channel_that_never_moved_is_told_and_not_the_strangest_thing_ever() -> None:
    """A thousand of its assumed spreads; another channel's 258 spreads score more."""
    constant = replace(CALIBRATION, constant=np.array([True, False]))
    rows = [[0.0, value] for _, value in noise(30)]
    step = run([*rows, [1000.0, 0.1], [1000.0, 0.2]], calibration=constant)[-1]
    jump = run([*rows, [0.0, 258.0]], calibration=constant)[-1]
    assert 1 < step.parts[0, 0] < 10 < jump.parts[0, 0]


def test_what_an_anomaly_teaches_is_bounded() -> None:
    states = fresh(1)
    for value in (1e30, -1e30, 1e3, 5.0, 3e38):
        before = states.copy()
        x = np.array([[value, 0]])
        judge(x, x.astype(np.float64), np.zeros((1, 2)), states, CALIBRATION)
        spread = np.sqrt(CALIBRATION.event_variance + before["unrest"][0])
        learned = {
            name: np.max(states[name] - before[name]) * TEACHING_READINGS for name in ("noise", "usual", "unrest")
        }
        assert learned["noise"] <= NOISE_LIMIT * (1 + max(0, before["noise"].max())) + 1e-3
        assert learned["usual"] <= EVENT_LIMIT * spread + 1e-3
        assert learned["unrest"] <= EVENT_LIMIT**2 * spread**2 + 1e-3
        moved = np.abs(states["accepted"] - before["accepted"]).max()
        assert moved * TEACHING_READINGS <= ACCEPT_LIMIT * 3 + 1e-3
    after = run([*noise(5, 7)])[-1].score[0]
    x = np.array(noise(5, 7)[-1:])
    for _ in range(6):
        last = judge(x, x.astype(np.float64), np.zeros((1, 2)), states, CALIBRATION)
    assert last.parts[0, 0] < 1
    assert after < 1


def test_a_channel_that_stands_still_is_named() -> None:
    judged = run([[0.25, value] for _, value in noise(15)])
    assert judged[9].score[0] < 1
    assert REASONS[judged[12].reason[0]] == "still"
    assert judged[12].score[0] > 1
    assert judged[12].attribution[0, 0] == 1


@pytest.mark.parametrize("loud", [0.02, 4.0])
def test_a_channel_calmer_or_livelier_than_usual_ranks_above_normal_and_raises_no_alarm(loud: float) -> None:
    """With thresholds of events and levels out of reach."""
    lax = replace(usual(2), event_mean=99.0, level_threshold=99.0)
    normal, other = noise(400), noise(200, 1)
    changed = [[loud * first, second] for first, second in other]
    scores = np.array([j.score[0] for j in run([*normal, *changed], calibration=lax)])
    assert scores.max() < 1
    assert scores[450:].min() > np.quantile(scores[60:400], 0.9)


def test_the_score_is_the_largest_part_above_the_threshold_and_below_1_else() -> None:
    rng = np.random.default_rng(4)
    rows = (rng.normal(0, 1, (500, 2)) * 10.0 ** rng.integers(-2, 2, (500, 2))).tolist()
    judged = run([*rows, *[[0.1, 0.1]] * 30])
    score, largest = (
        np.array([value[0] for value in values])
        for values in zip(*[(j.score, j.parts.max(axis=1)) for j in judged], strict=True)
    )
    assert 50 < (largest > 1).sum() < 500
    assert (score[largest > 1] == largest[largest > 1]).all()
    assert (score[largest <= 1] < 1).all()


def test_a_young_stream_ranks_no_higher_than_an_old_one() -> None:
    scores = np.array([j.score[0] for j in run(noise(1000))])
    assert scores[:40].max() < np.quantile(scores[200:], 0.999)


def test_a_channel_that_may_rest_is_never_quiet() -> None:
    still = [[0.0, value] for _, value in noise(300)]
    rests, must_not = (
        run(still, calibration=replace(usual(2), quiet_scale=np.array([scale, np.inf])))[-1].score[0]
        for scale in (np.inf, 1.0)
    )
    assert rests < 0.6 < must_not


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
    rows = [*noise(5), [3.0, 9.0]]
    strict, lax = (run(rows, calibration=usual(2, event_threshold=at))[-1] for at in (4.0, 8.0))
    assert lax.score[0] == pytest.approx(strict.score[0] / 2)


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_a_stream_alone_is_judged_to_the_bit_as_in_company(missing: float) -> None:
    """One stream is pooled with Python's numbers, several with arrays: both round alike."""
    rng = np.random.default_rng(3)
    rows = rng.normal(0, 2, (300, 4, 2)) * 10.0 ** rng.integers(-2, 3, (300, 4, 1))
    rows[rng.random(rows.shape) < missing] = np.nan
    together = fresh(4)
    alone = [together[at : at + 1].copy() for at in range(4)]
    for x in rows:
        company = judge(x, x.astype(np.float64), np.zeros((4, 2)), together, CALIBRATION)
        for at, states in enumerate(alone):
            own = x[at : at + 1]
            found = judge(own, own.astype(np.float64), np.zeros((1, 2)), states, CALIBRATION)
            for name in ("score", "reason", "attribution", "parts", "signals"):
                assert getattr(found, name)[0].tobytes() == getattr(company, name)[at].tobytes(), name
            assert states.tobytes() == together[at : at + 1].tobytes()
