"""What is known to be wrong in a recording is left out of what is learned, and how much that is can be told."""

from __future__ import annotations

import numpy as np
import pytest

from gatewatch.models.recordings.recording import Recording
from gatewatch.models.recordings.review import LeftOut, Reviewed, Stretch, unreviewed


def recording(rows: int) -> Recording:
    return Recording("pump", ("a", "b"), np.arange(rows, dtype=np.int64) * 1000, np.arange(2.0 * rows).reshape(rows, 2))


def mask(rows: int, *wrong: int) -> np.ndarray:
    found = np.zeros(rows, bool)
    found[list(wrong)] = True
    return found


def test_what_is_learned_are_the_stretches_between_what_is_wrong() -> None:
    one = Reviewed(recording(12), mask(12, 0, 5), mask(12, 5, 6), [(5, 6)])
    first, second = one.stretches()
    assert first.rows(0).values[:, 0].tolist() == [2, 4, 6, 8]
    assert second.rows(0).values[:, 0].tolist() == [14, 16, 18, 20, 22]
    assert [len(part) for part in one.stretches(9)] == [4, 2]
    assert [len(part) for part in one.stretches(1)] == []


def test_a_recording_of_which_nothing_wrong_is_known_is_learned_as_it_is() -> None:
    whole = recording(5)
    assert unreviewed(whole).stretches() == [whole]
    assert [len(part) for part in unreviewed(whole).stretches(3)] == [3]


@pytest.mark.parametrize("rows", [(0, None), (2, 4), (-2, None), (3, 1), (0, 99)])
def test_a_stretch_gives_its_rows_as_a_recording_does(rows: tuple[int, int | None]) -> None:
    whole = recording(12)
    stretch = Stretch(whole, 4, 9)
    assert stretch.rows(*rows).values.tolist() == whole.rows(4, 9).rows(*rows).values.tolist()
    assert stretch.only(["b"]).rows(*rows).values.tolist() == whole.rows(4, 9).only(["b"]).rows(*rows).values.tolist()


def test_what_is_left_out_is_counted_once() -> None:
    left_out = LeftOut.of(
        [Reviewed(recording(10), mask(10, 1, 2, 3), mask(10, 3, 4), [(3, 4)]), unreviewed(recording(6))]
    )
    assert left_out == LeftOut(readings=16, judged=2, labelled=2, events=1)
    assert left_out.line() == (
        "left out 4 of 16 readings (25.0%): 2 that were labelled (1 faults), 2 that were judged anomalous"
    )
    assert LeftOut.of([]).share == 0
