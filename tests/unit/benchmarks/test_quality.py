"""What the benchmarks of detection choose, flag and change."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.cycles import FAMILIES, LEARN, ROWS, cycle_streams
from benchmarks.quality.dynamic import cut
from benchmarks.quality.measures import Counts
from benchmarks.quality.telemanom import BUFFER, Recipe, judge
from benchmarks.quality.variants import changed, chosen_without
from gatewatch.models.detectors.general import alert_budget
from gatewatch.models.detectors.general import detector as general_detector


def errors(peaks: dict[int, float], rows: int = 2000) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    found = np.random.default_rng(0).uniform(0.9, 1.1, rows)
    for row, height in peaks.items():
        found[row : row + 5] = height
    return found


def test_pruning_takes_incidents_back_that_do_not_stand_out() -> None:
    """10.0 is followed by 9.5, and that by 1.1: the last fall is large enough, unless nine tenths are asked."""
    of = errors({500: 10.0, 900: 9.5})
    kept = [set((np.flatnonzero(cut(of, least_fall)) // 100).tolist()) for least_fall in (0.0, 0.13, 0.9)]
    assert kept == [{5, 9}, {5, 9}, set()]
    assert not cut(np.ones(100)).any()


def test_telemanoms_buffer_widens_what_is_flagged_and_nothing_else() -> None:
    of = errors({1500: 10.0})
    _, plain = judge(Recipe(smoothed=False, buffer=False), of, 1000)
    _, wide = judge(Recipe(smoothed=False), of, 1000)
    assert np.flatnonzero(plain).tolist() == [500, 501, 502, 503, 504]
    assert np.flatnonzero(wide).tolist() == list(range(500 - BUFFER, 505 + BUFFER))


def test_a_variant_is_in_force_inside_its_block_alone() -> None:
    before = alert_budget.REPEATS, vars(general_detector)["MOST_CHANNELS"]
    with changed("general@no-repeats"):
        assert (alert_budget.REPEATS, vars(general_detector)["REPEATS"]) == (0.0, 0.0)
    after = alert_budget.REPEATS, vars(general_detector)["MOST_CHANNELS"]
    assert after == before
    assert vars(general_detector)["REPEATS"] == before[0]


def flagged(events: int, found: int) -> Counts:
    """A set of one series."""
    names = ("tp", "fp", "fn", "tn", "events_false", "events_hit", "alerts_hit", "alerts_false", "auc_pr", "vus_pr")
    told = {
        "events_touched": found,
        "events_missed": events - found,
        "events": events,
        "all_events": events,
        "weeks": 1,
    }
    return {"one": {**dict.fromkeys(names, 0.0), **{name: float(value) for name, value in told.items()}}}


def test_what_is_chosen_without_a_set_never_looks_at_it() -> None:
    measured = {
        "asd": {"general": flagged(10, 1), "general@no-jumps": flagged(10, 9)},
        "gecco": {"general": flagged(10, 6), "general@no-jumps": flagged(10, 5)},
        "tep": {"general": flagged(10, 6), "general@no-jumps": flagged(10, 5)},
        "smd": {"general": flagged(10, 6)},
    }
    assert chosen_without("asd", measured, "general") == "general"
    assert chosen_without("gecco", measured, "general") == "general@no-jumps"
    assert chosen_without("smd", measured, "general") is None


def test_what_is_wrong_with_a_cycle_is_not_its_values() -> None:
    """They lie in the range of the readings to learn from, but for its noise and wandering level."""
    streams = list(cycle_streams())
    assert {name.split("-")[0] for name, _, _ in streams} == set(FAMILIES)
    for name, values, ((first, last),) in streams:
        usual, wrong = values[:LEARN, 0], values[first : last + 1, 0]
        beyond = max(usual.min() - wrong.min(), wrong.max() - usual.max()) / np.ptp(usual)
        assert beyond < 0.2, name
        assert LEARN < first < last < ROWS, name
