"""Recordings become windows without a reading lost, doubled, out of order or learned from before its time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.errors import TrainingError
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.training.trained.windows import held_out_row, held_out_windows, train_windows, usable
from tests.support.windows import UNSCALED, counting, lanes


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(43, 900), min_size=1, max_size=4),
    window=st.integers(2, 40),
    side_by_side=st.integers(1, 9),
    held_out=st.sampled_from([0.1, 0.25, 0.5]),
)
def test_every_training_reading_goes_through_one_lane_in_order(
    lengths: list[int], window: int, side_by_side: int, held_out: float
) -> None:
    recordings = [counting(length, 1 + 1000 * at) for at, length in enumerate(lengths)]
    windows = train_windows(recordings, UNSCALED, held_out, window, side_by_side)
    expected = {
        1 + 1000 * at + row
        for at, recording in enumerate(recordings)
        for row in range(held_out_row(recording, held_out))
    }
    found = lanes(windows)
    assert all(lane == list(range(lane[0], lane[0] + len(lane))) for lane in found)
    seen = [number for lane in found for number in lane]
    assert len(seen) == len(set(seen))
    # the rest of a recording that would be no longer than its burn-in is left out
    assert expected >= set(seen)
    assert len(expected - set(seen)) <= len(recordings) * (window // 2)
    assert all(one.x.shape[0] <= window and one.x.shape[1] <= side_by_side for one in windows)


@settings(deadline=None)
@given(length=st.integers(43, 900), window=st.integers(2, 40), held_out=st.sampled_from([0.1, 0.25, 0.5]))
def test_held_out_readings_count_once_and_are_never_trained_on(length: int, window: int, held_out: float) -> None:
    recording = counting(length, 1)
    row = held_out_row(recording, held_out)
    tested = held_out_windows([recording], UNSCALED, held_out, window, 4)
    assert lanes(tested, counted=True) == [list(range(1 + row, 1 + length))]
    trained = lanes(train_windows([recording], UNSCALED, held_out, window, 4))
    assert max(max(lane) for lane in trained) <= row


def test_held_out_readings_start_with_a_warm_state() -> None:
    recording = counting(400, 1)
    (seen,) = lanes(held_out_windows([recording], UNSCALED, 0.25, 16, 4))
    assert seen == list(range(301 - 4 * 16, 401))


def test_a_lane_cut_from_the_middle_does_not_count_until_it_is_warm() -> None:
    recording = counting(400, 1)
    windows = train_windows([recording], UNSCALED, 0.25, 16, 4)
    fed, counted = lanes(windows), lanes(windows, counted=True)
    assert len(fed) == 4
    for lane, counts in zip(fed, counted, strict=True):
        assert counts == (lane if lane[0] == 1 else lane[8:])


def test_a_lane_that_has_ended_counts_no_more() -> None:
    windows = train_windows([counting(400, 1), counting(60, 1001)], UNSCALED, 0.25, 16, 2)
    fed, counted = lanes(windows), lanes(windows, counted=True)
    short = next(at for at, lane in enumerate(fed) if lane[0] == 1001)
    assert counted[short] == list(range(1001, 1046))
    assert all(bool(window.observed.all()) for window in windows)  # padding does not cost the fast path


def test_a_missing_value_is_zero_unobserved_and_not_counted() -> None:
    (window, *_) = train_windows([counting(100, 1, missing=(3, 4))], UNSCALED, 0.25, 75, 1)
    assert window.observed[:6, 0, 0].tolist() == [1, 1, 1, 0, 0, 1]
    assert window.counted[:6, 0, 0].tolist() == [1, 1, 1, 0, 0, 1]
    assert window.x[3, 0, 0] == 0
    assert window.observed[:6, 0, 1].tolist() == [1] * 6
    assert bool(window.x.isfinite().all())


def test_elapsed_is_zero_for_the_first_reading_and_runs_on_over_a_cut() -> None:
    recording = counting(400, 1)
    times = recording.timestamps_ms.copy()
    times[64:] += 60_000 * 9  # ten intervals instead of one, at the first reading of the second lane
    windows = train_windows(
        [Recording("gap", recording.channels, times, recording.values)],
        Scaling(np.zeros(2), np.ones(2), 30.0),
        0.25,
        16,
        5,
    )
    first = windows[0]
    assert first.elapsed[0, 0, 0] == 0
    assert first.elapsed[1, 0, 0] == pytest.approx(np.log(2))
    assert first.elapsed[0, 1, 0] == pytest.approx(np.log(20))


def test_recordings_too_short_are_left_out() -> None:
    long, short = counting(43), counting(42)
    assert usable([short, long], 0.25) == [long]


def test_only_recordings_too_short_is_an_error_that_says_what_is_needed() -> None:
    with pytest.raises(TrainingError, match=r"42 readings in the longest of 2 recordings; at least 43 are needed"):
        usable([counting(42), counting(7)], 0.25)
    with pytest.raises(TrainingError, match=r"at least 141 are needed"):
        usable([counting(140)], 0.05)


@given(held_out=st.floats(0.05, 0.5), length=st.integers(1, 200))
def test_a_usable_recording_gives_32_readings_to_train_and_8_held_out(held_out: float, length: int) -> None:
    recording = counting(length)
    row = held_out_row(recording, held_out)
    try:
        usable([recording], held_out)
    except TrainingError:
        assert row < 32 or length - row < 8
    else:
        assert row >= 32
        assert length - row >= 8
