"""The detector's states, statuses and incidents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gatewatch.models.artefact.files import load_artefact
from gatewatch.models.detectors.detector import ANOMALOUS, Step
from gatewatch.models.detectors.incidents import JOIN_READINGS, OPEN_READINGS
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.errors import ShapeError
from tests.support.samples import START_MS, make_artefact


def feed(detector: TrainedDetector, rows: list[tuple[float, float]], step_ms: int = 60_000) -> list[Step]:
    states, steps = detector.initial(1), []
    for number, row in enumerate(rows):
        times = np.array([START_MS + step_ms * number])
        steps.append(detector.step(np.array([row]), times, states))
        states = steps[-1].states
    return steps


def calm(count: int) -> list[tuple[float, float]]:
    rng = np.random.default_rng(0)
    return [(float(a), float(b)) for a, b in rng.normal(3, 0.3, (count, 2))]


def test_warm_up_is_scored_and_not_judged(detector: TrainedDetector) -> None:
    steps = feed(detector, [(3.0, 900.0)] * 6)
    assert all(step.score[0] > 1 for step in steps)
    assert [step.status[0] == ANOMALOUS for step in steps] == [False] * 4 + [True] * 2


def test_an_incident_gives_one_alert_and_ends_after_calm_readings(detector: TrainedDetector) -> None:
    rows = [*calm(10), *[(3.0, 90.0)] * 3, *calm(20), (3.0, 90.0), *calm(JOIN_READINGS + 20), (3.0, 90.0)]
    steps = feed(detector, rows)
    assert [n for n, step in enumerate(steps) if step.alert[0]] == [10, len(rows) - 1]
    opened = [bool(TrainedDetector.is_open(step.states)[0]) for step in steps]
    assert opened[10 : 33 + OPEN_READINGS] == [True] * (23 + OPEN_READINGS)
    assert not any(opened[40 + OPEN_READINGS : -1])


@pytest.mark.parametrize(("apart", "told"), [(JOIN_READINGS, 1), (100, 2), (40, 5), (OPEN_READINGS - 1, 100)])
def test_what_comes_again_is_told_again_once_in_so_many_readings(
    detector: TrainedDetector, apart: int, told: int
) -> None:
    """Of eight like events, each; every fifth where five come in that time; the first where the incident is open."""
    rows = [*calm(10), *(8 * [*2 * [(3.0, 90.0)], *calm(apart)])]
    steps = feed(detector, rows)
    begins = range(10, len(rows), apart + 2)
    assert [n for n, step in enumerate(steps) if step.alert[0]] == [*begins][::told]


@pytest.mark.parametrize(("interval_s", "apart", "alerts"), [(60, 150, 1), (3600, 9, 2), (3600, 4, 1), (300, 60, 2)])
def test_incidents_of_slow_streams_are_joined_by_time(tmp_path: Path, interval_s: int, apart: int, alerts: int) -> None:
    """At a reading a minute 150 readings are three hours; at one an hour, 9 are as good as a shift."""
    artefact = load_artefact(make_artefact(tmp_path / "a"))
    detector = TrainedDetector(
        replace(artefact, manifest=artefact.manifest.model_copy(update={"interval_s": interval_s}))
    )
    rows = [*calm(10), (3.0, 90.0), *calm(apart), (3.0, 90.0)]
    steps = feed(detector, rows, 1000 * interval_s)
    assert sum(step.alert[0] for step in steps) == alerts


def test_a_long_gap_starts_the_stream_afresh_with_the_second_reading_behind_it(detector: TrainedDetector) -> None:
    first = feed(detector, calm(10))[-1].states
    gap_ms = int(detector.manifest.calibration.restart_gap_s * 1000) + 1
    row = np.array([[3.0, 3.0]])

    def after(pause_ms: int) -> Step:
        behind = detector.step(row, first["last_ms"] + pause_ms, first).states
        return detector.step(row, behind["last_ms"] + 60_000, behind)

    resumed, continued = after(gap_ms), after(gap_ms - 2)
    fresh = detector.step(row, np.array([START_MS]), detector.initial(1))
    assert resumed.status[0] == 0
    assert resumed.states["h"].tobytes() == fresh.states["h"].tobytes()
    assert continued.states["h"].tobytes() != fresh.states["h"].tobytes()


def test_a_step_leaves_the_states_it_was_given_as_they_were(detector: TrainedDetector) -> None:
    states = detector.initial(3)
    before = states.tobytes()
    detector.step(np.ones((3, 2)), np.full(3, START_MS), states)
    assert states.tobytes() == before


def test_a_clock_that_stands_still_or_steps_back_is_no_error(detector: TrainedDetector) -> None:
    for step_ms in (0, -60_000):
        assert all(np.isfinite(step.score).all() for step in feed(detector, calm(20), step_ms))


def test_shapes_that_do_not_fit_are_refused(detector: TrainedDetector) -> None:
    with pytest.raises(ShapeError, match=r"values \(2, 3\)"):
        detector.step(np.ones((2, 3)), np.zeros(2, np.int64), detector.initial(2))
