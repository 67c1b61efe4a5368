"""Many rows at once say what one after the other says, to the bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.general.detector import GeneralDetector, load_detector
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import JOINED_FIELDS, Scan, scan

ROWS = 700
Values = NDArray[np.float64]
Times = NDArray[np.int64]


def plain(channels: int, seed: int) -> tuple[Values, Times]:
    """Daily curves with noise that remembers; spikes, a shifted level and a channel that stands still."""
    rng = np.random.default_rng(seed)
    times = 1_700_000_000_000 + 900_000 * np.arange(ROWS)
    values, now = np.empty((ROWS, channels)), np.zeros(channels)
    for row, new in enumerate(rng.normal(size=(ROWS, channels))):
        now = rng.uniform(0.2, 0.9) * now + new
        values[row] = now
    values += 3 * np.sin(2 * np.pi * (times[:, None] / 86_400_000 + np.arange(channels) / channels))
    values[[150, 240, 241, 500], rng.integers(0, channels, 4)] += 25.0
    values[350:420, 0] += 9.0
    values[560:640, -1] = values[560, -1]
    return values, times


def rests_and_misses(values: Values, times: Times) -> None:
    """A channel that never moves until it does, missing values, and rows without any."""
    values[:, 1] = np.where(np.arange(ROWS) < 450, 7.0, 8.0)
    values[np.random.default_rng(0).random(values.shape) < 0.05] = np.nan
    values[300:310] = np.nan


def odd_clock(values: Values, times: Times) -> None:
    """A gap, two readings of one time, a step back, other intervals."""
    times[200:] += 20 * 86_400_000
    times[260] = times[259]
    times[320] -= 9_000_000
    times[400:] += np.arange(ROWS - 400) ** 2 * 40


def odd_values(values: Values, times: Times) -> None:
    """A counter with an offset, codes for missing values, what is no number or too large for one."""
    values[:, 0] = 1e9 + np.cumsum(np.abs(values[:, 0]))
    values[280:300, 1] = -9999.0
    values[400, 1], values[450] = np.inf, 1e300


def nothing(values: Values, times: Times) -> None:
    """As it is."""


def one_by_one(recording: Recording) -> Scan:
    detector = load_detector(model_folder("general"), recording.channels)
    detector.advance_rows = lambda *_: None  # type: ignore[method-assign]
    return scan(detector, recording)


@pytest.mark.parametrize(
    ("channels", "change"), [(1, nothing), (3, rests_and_misses), (2, odd_clock), (2, odd_values), (17, nothing)]
)
def test_rows_taken_together_score_as_one_by_one(channels: int, change: Callable[[Values, Times], None]) -> None:
    values, times = plain(channels, channels)
    change(values, times)
    recording = Recording.at_us("s", tuple(map(str, range(channels))), times * 1000, values)
    detector = load_detector(model_folder("general"), recording.channels)
    taken = []
    assert isinstance(detector, GeneralDetector)
    together = detector.advance_rows
    detector.advance_rows = lambda *of: taken.append(together(*of)) or taken[-1]  # type: ignore[method-assign,func-returns-value]
    found, expected = scan(detector, recording), one_by_one(recording)
    assert sum(len(step.score) for step in taken if step is not None) > ROWS / 4
    assert expected.alert.any()
    for name in JOINED_FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    for name in found.states.dtype.names or ():
        assert found.states[name].tobytes() == expected.states[name].tobytes(), name


def test_a_scan_in_two_parts_scores_as_in_one() -> None:
    values, times = plain(2, 5)
    recording = Recording.at_us("s", ("a", "b"), times * 1000, values)
    detector = load_detector(model_folder("general"), recording.channels)
    whole, first = scan(detector, recording), scan(detector, recording.rows(0, 333))
    rest = scan(detector, recording.rows(333), first.states)
    np.testing.assert_array_equal(np.concatenate([first.score, rest.score]), whole.score)
    assert rest.states.tobytes() == whole.states.tobytes()
