"""Clocks that step, leap and come back, and gaps: what they teach and what they start anew."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.clock import LONGEST_MS, NEVER, UNKNOWN, clock_fields, take_time
from gatewatch.models.detectors.detector import WARMING_UP, Scanner
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import Scan, scan
from tests.support.samples import CHANNELS, START_MS

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
LIMIT_MS = HOUR_MS


def taken(times_ms: list[int]) -> tuple[list[int], list[int]]:
    """Of readings at these times: how long each was after the one before, and the rows that start a stream anew."""
    states = np.zeros(1, clock_fields())
    states["last_ms"] = NEVER
    elapsed, anew = [], []
    for row, moment in enumerate(times_ms):
        since, starts = take_time(states, np.array([moment]), LIMIT_MS)
        elapsed.append(int(since[0]))
        anew += [row] if starts is not None and starts[0] else []
    return elapsed, anew


def minutes(count: int, start_ms: int = START_MS) -> list[int]:
    return [start_ms + MINUTE_MS * row for row in range(count)]


@pytest.mark.parametrize("wrong", [[5_000], [5_000, 1_000], [5_000, 65_000, 125_000], [START_MS - 3 * DAY_MS]])
def test_a_clock_that_falls_back_and_returns_tells_only_what_it_knows(wrong: list[int]) -> None:
    times = [*minutes(10), *wrong, *minutes(10, START_MS + MINUTE_MS * (10 + len(wrong)))]
    elapsed, anew = taken(times)
    assert anew == []
    assert elapsed[10] == UNKNOWN
    assert elapsed[10 + len(wrong)] == (1 + len(wrong)) * MINUTE_MS
    assert elapsed[11 + len(wrong) :] == [MINUTE_MS] * 9


def test_a_clock_put_back_for_good_goes_on() -> None:
    elapsed, anew = taken([*minutes(10), *minutes(200, START_MS - HOUR_MS)])
    assert anew == []
    assert elapsed[10] == UNKNOWN
    assert max(elapsed[11:]) == MINUTE_MS
    assert min(elapsed[11:]) >= 0


@pytest.mark.parametrize("wrong", [START_MS + 100 * 365 * DAY_MS, START_MS + DAY_MS])
def test_a_clock_that_leaps_ahead_and_returns_starts_nothing_anew(wrong: int) -> None:
    glitch = [*minutes(10), wrong, *minutes(10, START_MS + 11 * MINUTE_MS)]
    elapsed, anew = taken([*glitch, 5_000, *minutes(3, START_MS + 22 * MINUTE_MS)])
    assert anew == []
    assert [elapsed[10], elapsed[11]] == [UNKNOWN, 2 * MINUTE_MS]
    assert [elapsed[21], elapsed[22]] == [UNKNOWN, 2 * MINUTE_MS]


def test_a_gap_starts_a_stream_anew_once_the_clock_has_gone_on_from_it() -> None:
    elapsed, anew = taken([*minutes(10), *minutes(5, START_MS + DAY_MS)])
    assert anew == [11]
    assert elapsed[10:12] == [UNKNOWN, MINUTE_MS]


def test_a_gap_that_recurs_starts_nothing_anew_and_a_much_longer_one_does() -> None:
    bursts = [moment for hour in range(40) for moment in minutes(20, START_MS + 3 * HOUR_MS * hour)]
    later = bursts[-1] + 30 * DAY_MS
    _, anew = taken([*bursts, *minutes(5, later)])
    assert anew == [21, len(bursts) + 1]


def test_nights_and_weekends_are_one_rhythm() -> None:
    """Eight hours of every working day: gaps of 16 hours, and of 64 over the weekend."""
    days = [day for day in range(28) if day % 7 < 5]
    shifts = [moment for day in days for moment in minutes(480, START_MS + DAY_MS * day)]
    _, anew = taken(shifts)
    assert len(anew) == 2  # the first night, the first weekend


# The same by the detectors.


def noise(rows: int) -> NDArray[np.float64]:
    return np.random.default_rng(4).normal(3, 0.3, (rows, 2))


def scanned(detector: Scanner, times_ms: list[int], spike: int | None = None, rows: int | None = None) -> Scan:
    values = noise(len(times_ms))
    if spike is not None:
        values[spike : spike + 5, 0] += 30
    return scan(detector, Recording("s", CHANNELS, np.array(times_ms), values))


@pytest.mark.parametrize("wrong", [5_000, START_MS + 100 * 365 * DAY_MS])
@pytest.mark.parametrize("kind", ["trained", "general"])
def test_a_fault_is_found_as_well_behind_a_reading_with_a_wrong_clock(detector: Scanner, kind: str, wrong: int) -> None:
    judge = detector if kind == "trained" else load_detector(model_folder("general"), CHANNELS)
    right, glitch = minutes(600), minutes(600)
    glitch[400] = wrong
    clean, found = scanned(judge, right, spike=430), scanned(judge, glitch, spike=430)
    np.testing.assert_allclose(found.score[430:435], clean.score[430:435], rtol=0.2)
    assert found.alert[430:435].any()
    assert (found.status[32:] != WARMING_UP).all()


def test_bursts_are_judged(detector: TrainedDetector) -> None:
    hours = detector.manifest.calibration.restart_gap_s / 3600 + 1
    bursts = [moment for n in range(30) for moment in minutes(3, START_MS + int(n * hours) * HOUR_MS)]
    found = scanned(detector, bursts, spike=70)
    assert (found.status[: detector.warm_up] == WARMING_UP).all()
    assert (found.status[12:] != WARMING_UP).all()
    assert found.alert[70:75].any()


@pytest.mark.parametrize("first_ms", [[], [1], [1] * 20, [0] * 5, [DAY_MS]])
def test_a_new_stream_soon_knows_its_interval_whatever_its_first_readings_were_apart(first_ms: list[int]) -> None:
    detector = load_detector(model_folder("general"), ["a"])
    states, times = detector.initial(1), np.cumsum([START_MS, *first_ms, *[5 * MINUTE_MS] * 1200])
    for row, moment in enumerate(times.tolist()):
        detector.advance(np.array([[np.sin(row)]]), np.array([moment]), states)
    assert states["interval_ms"][0] == pytest.approx(5 * MINUTE_MS, rel=0.2)
    assert states["between_ms"][0] == pytest.approx(5 * MINUTE_MS, rel=0.2)


def test_nothing_has_passed_before_a_first_reading_even_without_a_limit() -> None:
    states = np.zeros(1, clock_fields())
    states["last_ms"] = NEVER
    elapsed, anew = take_time(states, np.array([START_MS]), LONGEST_MS)
    assert elapsed.tolist() == [UNKNOWN]
    assert anew is None or not anew.any()
