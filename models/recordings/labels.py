"""Labels: which rows of a recording lie in an event, from a column of it or from a file of intervals."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from gatewatch.models.errors import EvaluationError, RecordingError
from gatewatch.models.evaluation.vus import runs
from gatewatch.models.recordings.files import Rows, lines_of, open_text
from gatewatch.models.recordings.label_names import COLUMNS as COLUMNS
from gatewatch.models.recordings.label_names import MARKS, is_like_label
from gatewatch.models.recordings.recording import AnySource, Recording, Source
from gatewatch.models.recordings.tables import block_rows
from gatewatch.models.recordings.times import time_us
from gatewatch.models.text import listed

Span = tuple[int, int]
"""First and last row of an event, both of it."""

HEADER = ("stream", "start", "end")
MOST_INTERVALS = 1_000_000


@dataclass(frozen=True)
class Interval:
    """An event of a stream; both ends belong to it."""

    start_us: int
    end_us: int
    row: int


Intervals = Mapping[str, Sequence[Interval]]
"""By stream, in order of time."""


def read_intervals(path: Path) -> Intervals:
    """Read events from a CSV with the columns `stream`, `start` and `end`, times as in a recording.

    Raises:
        EvaluationError: no such file, other columns, an end before its start, or intervals of a stream that overlap;
            names file and row.
        RecordingError: a cell that is not a time.
    """
    found: dict[str, list[Interval]] = {}
    try:
        with open_text(path) as file:
            table = Rows(path, lines_of(file), strict=True)
            header = next(table, None) or ["nothing"]
            if set(header) != set(HEADER):
                raise EvaluationError(f"{path}: the header has {listed(header)}; expected {', '.join(HEADER)}")
            for number, row in enumerate(filter(None, table), start=2):
                where = f"{path}, row {number}"
                if len(row) != len(header) or number > MOST_INTERVALS:
                    raise EvaluationError(
                        f"{where}: expected {len(HEADER)} cells: {', '.join(HEADER)}; at most {MOST_INTERVALS} rows"
                    )
                cells = dict(zip(header, row, strict=True))
                start, end = (time_us(cells[name], where, name) for name in ("start", "end"))
                if end < start:
                    raise EvaluationError(f"{where}: end {cells['end']:.80} lies before start {cells['start']:.80}")
                found.setdefault(cells["stream"], []).append(Interval(start, end, number))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise EvaluationError(f"{path}: the labels cannot be read: {error}") from error
    if not found:
        raise EvaluationError(f"{path}: no interval; expected at least one row of {', '.join(HEADER)}")
    for stream, intervals in found.items():
        intervals.sort(key=lambda one: one.start_us)
        for one, other in pairwise(intervals):
            if other.start_us <= one.end_us:
                raise EvaluationError(
                    f"{path}, rows {min(one.row, other.row)} and {max(one.row, other.row)}: intervals of {stream} "
                    "overlap; join them to one"
                )
    return found


@dataclass(frozen=True)
class Labelled:
    """A recording without its label column, and first and last row of each event; None where nothing labels it."""

    recording: Recording
    events: list[Span] | None


def with_labels(recordings: Sequence[Recording], column: str | None, intervals: Intervals | None) -> list[Labelled]:
    """The recordings with their labels, from `intervals` if given, or else from a column.

    Args:
        column: 1 in events and else 0, no channel; one of COLUMNS if None. Where it is missing, nothing labels.
        intervals: by stream; a stream without any has no events.

    Raises:
        EvaluationError: a stream of the intervals is not there or is there twice, an interval without a reading, a
            label other than 0 and 1, a column that no recording has, or labels given twice.
        RecordingError: a recording with no channel beside its labels.
    """
    columns = [_label_column(recording, column) for recording in recordings]
    if column and not any(columns):
        raise EvaluationError(f"no recording has a label column {column}; expected a column with 0 and 1")
    if intervals is None:
        return [_by_column(recording, name) for recording, name in zip(recordings, columns, strict=True)]
    for recording, name in zip(recordings, columns, strict=True):
        if name:
            raise EvaluationError(f"{recording.stream}: labels given twice, in its column {name} and as intervals")
    _check_streams(intervals, recordings)
    return [Labelled(one, _events(one, intervals.get(one.stream, ()))) for one in recordings]


def _events(recording: Recording, intervals: Sequence[Interval]) -> list[Span]:
    return sorted(span for interval in intervals for span in _rows(recording, interval))


def like_labels(recording: Source) -> list[str]:
    """The channels that may be labels by their names and their values, at the beginning of the recording at least."""
    named = [name for name in recording.channels if is_like_label(name)]
    if not named:
        return []
    values = recording.rows(0, block_rows(len(recording.channels))).values
    seen = {name: values[:, recording.channels.index(name)] for name in named}
    return [name for name, marks in seen.items() if MARKS.issuperset(marks[np.isfinite(marks)].tolist())]


def label_columns(recording: Source) -> list[str]:
    """The columns that are taken for labels where none is named."""
    return [name for name in COLUMNS if name in recording.channels]


def without_labels(recording: AnySource) -> AnySource:
    """The recording without those.

    Raises:
        RecordingError: it has no channel beside them.
    """
    labels = label_columns(recording)
    if not labels:
        return recording
    channels = [channel for channel in recording.channels if channel not in labels]
    if not channels:
        raise RecordingError(f"{recording.stream}: no channel beside the label column {labels[0]}")
    return recording.only(channels)


def _label_column(recording: Recording, column: str | None) -> str | None:
    there = label_columns(recording) if column is None else [column] * (column in recording.channels)
    if len(there) > 1:
        raise EvaluationError(f"{recording.stream}: it has the columns {' and '.join(there)}; name the label column")
    return there[0] if there else None


def _by_column(recording: Recording, column: str | None) -> Labelled:
    """A recording whose events are the runs of ones in a column."""
    if column is None:
        return Labelled(recording, None)
    label = recording.values[:, recording.channels.index(column)]
    wrong = np.flatnonzero((label != 0) & (label != 1))
    if len(wrong):
        found = np.unique(label)
        both = " (where 1 is normal and -1 is not, write 0 and 1)" if set(found.tolist()) == {-1.0, 1.0} else ""
        blank = " (an empty cell is no label: write 0 where nothing was wrong)" if np.isnan(found).any() else ""
        raise EvaluationError(
            f"{recording.stream}, reading {wrong[0] + 1}: its {column} is {label[wrong[0]]:g}; expected 0 or 1, or "
            f"false or true{both}{blank}"
        )
    channels = [channel for channel in recording.channels if channel not in (column, *COLUMNS)]
    if not channels:
        raise RecordingError(f"{recording.stream}: no channel beside the label column {column}")
    return Labelled(recording.only(channels), runs(label == 1))


def _check_streams(intervals: Intervals, recordings: Sequence[Recording]) -> None:
    """Each labelled stream is there, once."""
    names = [recording.stream for recording in recordings]
    for stream, (first, *_) in intervals.items():
        if (there := names.count(stream)) != 1:
            raise EvaluationError(
                f"row {first.row} of the labels: {there or 'no'} recordings are of a stream {stream}; expected one of "
                f"{', '.join(sorted(set(names))[:10])}"
            )


def _rows(recording: Recording, interval: Interval) -> list[Span]:
    """The rows of an event: several spans where times step back, as in two exports behind each other."""
    times = recording.times_us
    inside = (times >= interval.start_us) & (times <= interval.end_us)
    if not inside.any():
        raise EvaluationError(
            f"row {interval.row} of the labels: no reading of {recording.stream} lies in this interval"
        )
    return runs(inside)
