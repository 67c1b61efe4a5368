"""Scores that a scan wrote as CSV, read again beside their recording."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import REASONS, STATUSES
from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.files import Rows, lines_of, open_text
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.reading import Reader
from gatewatch.models.recordings.recording import Recording, read_recordings
from gatewatch.models.scan import Scan
from gatewatch.models.scores import OF_A_CHANNEL, iso
from gatewatch.models.text import as_cell

UNREADABLE = (OSError, EOFError, UnicodeError, csv.Error, zlib.error, IndexError, ValueError)


def read_scores(path: Path, recording: Recording) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Score and status of each row, from a CSV that a scan wrote for this recording.

    Raises:
        RecordingError: not such a file, or its rows are of other times.
    """
    score, status, _ = _read(path, [recording])[0]
    return score, status


def read_scans(file: Path, path: Path, how: ReadOptions, tell: Callable[[Reader], None] | None = None) -> list[Scan]:
    """The scans of a file, from the CSV that a scan wrote for it; without the parts of the score, and states.

    Raises:
        RecordingError: the recording cannot be read, or the CSV is not of it.
    """
    recordings = read_recordings(file, how, tell)
    with open_text(path) as opened:
        header = next(Rows(path, lines_of(opened)), [])
    names = [name.removesuffix(".expected") for name in header if name.endswith(".expected")]
    absent = [f"{name}.{what}" for name in names for what in OF_A_CHANNEL if f"{name}.{what}" not in header]
    if not names or absent or "reason" not in header:
        raise RecordingError(f"{path}: no scores of a scan of this version; scan {file} again")
    known = {as_cell(name): name for recording in recordings for name in recording.channels}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RecordingError(f"{path}: scores of a channel {unknown[0]}, which {file} has not")
    chosen = [recording.only([known[name] for name in names]) for recording in recordings]
    columns = [
        "alert",
        "reason",
        *(f"{name}.{what}" for name in names for what in ("expected", "residual", *OF_A_CHANNEL)),
    ]
    return [_scan(one, *read) for one, read in zip(chosen, _read(path, chosen, columns), strict=True)]


def _scan(
    recording: Recording, score: NDArray[np.float64], status: NDArray[np.uint8], cells: Sequence[Sequence[str]]
) -> Scan:
    shape = len(recording), len(recording.channels), 2 + len(OF_A_CHANNEL)
    numbers = np.array([[float(cell or "nan") for cell in row[2:]] for row in cells]).reshape(shape)
    expected, residual, _, attribution, low, high = np.moveaxis(numbers, 2, 0)
    return Scan(
        recording, score.astype(np.float32), status,
        reason=np.array([REASONS.index(row[1]) for row in cells], np.uint8),
        alert=np.array([row[0] == "1" for row in cells], bool),
        attribution=attribution.astype(np.float32),
        expected=np.stack([low, expected, high], axis=2),
        residual=np.nan_to_num(residual).astype(np.float32),
        parts=np.zeros((len(recording), 4)), states=np.zeros(1), keeps_budget=True,
    )  # fmt: skip


Rest = tuple[NDArray[np.float64], NDArray[np.uint8], list[list[str]]]


def _read(path: Path, recordings: Sequence[Recording], columns: Sequence[str] = ()) -> list[Rest]:
    """Of each recording score, status, and the cells of some columns; a row of the file for each row of them."""
    try:
        with open_text(path) as file:
            rows = Rows(path, lines_of(file), strict=True)
            header = next(rows, [])
            at = [header.index(name) for name in ("timestamp", "score", "status", *columns)]
            streams = header.index("stream") if len(recordings) > 1 else None
            found: dict[str, list[list[str]]] = {}
            for row in rows:
                found.setdefault("" if streams is None else row[streams], []).append([row[place] for place in at])
        return [_of(path, one, found.get("" if streams is None else as_cell(one.stream), [])) for one in recordings]
    except RecordingError:
        raise
    except UNREADABLE as error:
        raise RecordingError(f"{path}: not the scores of a scan: {error}") from error


def _of(path: Path, recording: Recording, found: Sequence[Sequence[str]]) -> Rest:
    order = np.arange(len(recording)) if recording.places is None else np.argsort(recording.places)
    if [row[0] for row in found] != [iso(time_us) for time_us in recording.times_us[order].tolist()]:
        raise RecordingError(
            f"{path}: {len(found)} rows that are not those of {recording.stream} ({len(recording)}): "
            "scan this recording again"
        )
    back = np.argsort(order)
    rows = [found[at] for at in back.tolist()]
    score = np.array([float(row[1]) for row in rows])
    if not np.isfinite(score).all():
        raise RecordingError(f"{path}: a score is not finite; scan {recording.stream} again")
    return score, np.array([STATUSES.index(row[2]) for row in rows], np.uint8), [list(row[3:]) for row in rows]
