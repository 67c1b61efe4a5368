"""Labels are rows of a recording; those that cannot be are refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from gatewatch.models.errors import EvaluationError, GatewatchError, RecordingError
from gatewatch.models.recordings.labels import Interval, like_labels, read_intervals, with_labels
from gatewatch.models.recordings.recording import Recording


def recording(stream: str = "pump", channels: tuple[str, ...] = ("a",), **columns: list[float]) -> Recording:
    """Ten readings, one a second from second 100 on."""
    values = [columns.get(name, list(range(10))) for name in channels]
    return Recording(stream, channels, 100_000 + 1000 * np.arange(10), np.array(values, np.float32).T)


def intervals(tmp_path: Path, *rows: str, header: str = "stream,start,end") -> Path:
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_both_ends_of_an_interval_belong_to_it(tmp_path: Path) -> None:
    found = read_intervals(intervals(tmp_path, "pump,108,108.5", "pump,1970-01-01T00:01:42Z,104", "fan,1,2"))
    (one,) = with_labels([recording()], None, {"pump": found["pump"]})
    assert one.events == [(2, 4), (8, 8)]


def test_a_stream_that_no_interval_names_has_no_event(tmp_path: Path) -> None:
    found = with_labels([recording(), recording("fan")], None, read_intervals(intervals(tmp_path, "pump,101,102")))
    assert [one.events for one in found] == [[(1, 2)], []]


def test_a_label_column_is_no_channel_and_its_runs_are_events() -> None:
    label = [0.0, 1, 1, 0, 0, 1, 0, 0, 0, 1]
    for name, named in (("label", None), ("anomaly", None), ("fault", "fault")):
        (one,) = with_labels([recording(channels=("a", name, "b"), **{name: label})], named, None)  # type: ignore[arg-type]
        assert one.recording.channels == ("a", "b")
        assert one.events == [(1, 2), (5, 5), (9, 9)]
    assert with_labels([recording()], None, None)[0].events is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["pump,105,104"], "row 2: end 104 lies before start 105"),
        (["pump,1,5", "fan,1,2", "pump,4,9"], "rows 2 and 4: intervals of pump overlap"),
        (["pump,1,5", "pump,5,9"], "rows 2 and 3: intervals of pump overlap"),
        (["pump,soon,9"], "row 2, column start: 'soon' is not a time"),
        (["pump,1"], "row 2: expected 3 cells"),
        (["pump,1,2,3"], "row 2: expected 3 cells"),
        ([], "no interval; expected at least one row of stream, start, end"),
    ],
)
def test_intervals_that_cannot_be_are_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(GatewatchError, match=message):
        read_intervals(intervals(tmp_path, *rows))


def test_a_file_that_is_no_list_of_intervals_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="the header has stream, begin, end; expected stream, start, end"):
        read_intervals(intervals(tmp_path, "pump,1,2", header="stream,begin,end"))
    with pytest.raises(EvaluationError, match="the labels cannot be read"):
        read_intervals(tmp_path / "none.csv")


def test_labels_that_do_not_fit_the_recordings_are_refused(tmp_path: Path) -> None:
    found = read_intervals(intervals(tmp_path, "fan,101,102"))
    with pytest.raises(
        EvaluationError, match="row 2 of the labels: no recordings are of a stream fan; expected one of pum"
    ):
        with_labels([recording()], None, found)
    with pytest.raises(EvaluationError, match="2 recordings are of a stream fan"):
        with_labels([recording("fan"), recording("fan")], None, found)
    with pytest.raises(EvaluationError, match="row 2 of the labels: no reading of pump lies in this interval"):
        with_labels([recording()], None, read_intervals(intervals(tmp_path, "pump,5,6")))
    with pytest.raises(EvaluationError, match="labels given twice, in its column label and as intervals"):
        with_labels([recording("fan", ("a", "label"))], None, found)


def test_a_label_column_that_cannot_be_one_is_refused() -> None:
    for wrong in (2.0, float("nan")):
        labels = [0.0] * 4 + [wrong] + [0.0] * 5
        with pytest.raises(EvaluationError, match=r"pump, reading 5: its label is (2|nan); expected 0 or 1"):
            with_labels([recording(channels=("a", "label"), label=labels)], None, None)
    with pytest.raises(EvaluationError, match="no recording has a label column fault"):
        with_labels([recording()], "fault", None)
    with pytest.raises(EvaluationError, match="it has the columns label and anomaly; name the label column"):
        with_labels([recording(channels=("a", "label", "anomaly"))], None, None)
    with pytest.raises(RecordingError, match="no channel beside the label column label"):
        with_labels([recording(channels=("label",), label=[0.0] * 10)], None, None)


def test_an_event_covers_only_the_rows_within_its_time_where_times_step_back() -> None:
    """Two exports behind each other: what lies between their copies of an event is none of it."""
    once = recording()
    twice = Recording("pump", ("a",), np.tile(once.timestamps_ms, 2), np.tile(once.values, (2, 1)))
    (one,) = with_labels([twice], None, {"pump": [Interval(103_000_000, 104_000_000, 2)]})
    assert one.events == [(3, 4), (13, 14)]


def test_an_event_shorter_than_a_millisecond_covers_its_readings(tmp_path: Path) -> None:
    fast = Recording.at_us("pump", ("a",), 100_000_000 + 83 * np.arange(100), np.arange(100.0)[:, None])
    found = read_intervals(intervals(tmp_path, "pump,100.000166,100.000332"))
    assert with_labels([fast], None, found)[0].events == [(2, 4)]


@pytest.mark.parametrize(
    ("marks", "words"),
    [([-1.0, 1.0], "where 1 is normal and -1 is not, write 0 and 1"), ([np.nan, 1.0], "an empty cell is no label")],
)
def test_other_marks_than_0_and_1_are_refused_with_what_to_write(marks: list[float], words: str) -> None:
    with pytest.raises(EvaluationError, match=words):
        with_labels([recording(channels=("a", "label"), label=marks * 5)], None, None)


def test_a_column_that_looks_like_labels_is_spoken_of() -> None:
    marks = [0.0, 1.0] * 5
    names = ("a", "is_anomaly", "Label", "outlier", "target")
    looked = recording(channels=names, is_anomaly=marks, Label=[-1.0, 1.0] * 5, outlier=[0.0] * 10)
    assert like_labels(looked) == ["is_anomaly", "Label", "outlier"]  # `target` is a set point: 0 to 9


def test_labels_in_a_pipe_or_a_bomb_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(GatewatchError, match="expected a regular file"):
        read_intervals(tmp_path / "labels.csv")
    (tmp_path / "line.csv").write_text("stream,start,end\n" + "x" * 2**21)
    with pytest.raises(GatewatchError, match="a row of more than 1048576 characters"):
        read_intervals(tmp_path / "line.csv")
