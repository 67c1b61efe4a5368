"""Scores of a scan to a file, part by part: CSV, JSON lines or Parquet, one row for each row of the recording."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import REASONS, STATUSES
from gatewatch.models.errors import GatewatchError
from gatewatch.models.scan import Scan
from gatewatch.models.text import as_cell

if TYPE_CHECKING:
    import polars

FORMATS = ("csv", "jsonl", "parquet")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

OF_A_CHANNEL = ("difference", "attribution", "low", "high")
"""What a row has of each channel behind `expected` and `residual`."""


class ScoreWriter(Protocol):
    """Writes the scores of one file."""

    def write(self, scans: Sequence[Scan]) -> None:
        """Write the rows of all streams of the file, or of its next part, in the order of the file."""


@contextlib.contextmanager
def scores_to(path: Path, form: str) -> Iterator[ScoreWriter]:
    """A writer of a file, whose folder is made; what was there before stays until all is written.

    Where the user stops it, what was written so far stays in the file of this name with `.part` behind it.

    CSV: timestamp, score, status, alert, and for each channel `<channel>.expected` (physical units) and
    `<channel>.residual` (reading minus forecast, in error scales); then reason, and for each channel
    `<channel>.difference` (reading minus expected, physical units), `.attribution` (its share in the score), `.low` and
    `.high` (of the band that is normal). Empty where nothing is expected yet, or missing. Of a file with several
    streams, `stream` stands before them. JSON lines have an object for each row, Parquet the columns of the CSV.

    Raises:
        GatewatchError: the file cannot be written, or polars is missing for Parquet.
    """
    special = path.exists() and not path.is_file()  # as /dev/stdout
    beside = path if special else part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _opened(beside, form) as writer:
            yield writer
        if not special:
            beside.replace(path)
    except OSError as error:
        _drop(beside, path)
        raise GatewatchError(f"{path}: the scores cannot be written: {error.strerror}") from error
    except Exception:
        _drop(beside, path)
        raise


def part_of(path: Path) -> Path:
    """Where scores lie while they are written."""
    return path.with_name(f"{path.name}.part")


def _drop(beside: Path, path: Path) -> None:
    if beside != path:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(path: Path, form: str) -> Iterator[ScoreWriter]:
    if form == "parquet":
        parquet = _Parquet(path)
        with path.open("wb"):  # refused before the scan where it cannot be written
            yield parquet
        parquet.close()
        return
    with path.open("w", newline="") as file:
        yield _Csv(file) if form == "csv" else _JsonLines(file)


def header_of(scans: Sequence[Scan]) -> list[str]:
    """The columns of the CSV."""
    channels = list(map(as_cell, scans[0].recording.channels))
    header = [*(["stream"] if _named(scans) else []), "timestamp", "score", "status", "alert"]
    header += [f"{channel}.{what}" for channel in channels for what in ("expected", "residual")]
    return [*header, "reason", *(f"{channel}.{what}" for channel in channels for what in OF_A_CHANNEL)]


def _named(scans: Sequence[Scan]) -> bool:
    """Whether rows say their stream: where a file has several."""
    return len(scans) > 1 or (scans[0].recording.places is not None and not _newest_first(scans[0]))


def _newest_first(found: Scan) -> bool:
    places = found.recording.places
    return places is not None and len(places) > 1 and bool(places[0] > places[-1])


def rows_in_order(scans: Sequence[Scan]) -> Iterator[tuple[int, int]]:
    """Which of the scans has each row of the file, and at which of its rows."""
    if len(scans) == 1 and scans[0].recording.places is None:
        yield from ((0, row) for row in range(len(scans[0].recording)))
        return
    owners = np.repeat(np.arange(len(scans)), [len(found.recording) for found in scans])
    rows = np.concatenate([np.arange(len(found.recording)) for found in scans])
    known = [found.recording.places for found in scans if found.recording.places is not None]
    order: NDArray[np.intp] = np.arange(len(rows))
    if len(known) == len(scans):
        order = np.argsort(np.concatenate(known), kind="stable")
    yield from zip(owners[order].tolist(), rows[order].tolist(), strict=True)


class _Csv:
    def __init__(self, file: IO[str]) -> None:
        self._rows = csv.writer(file)
        self._begun = False

    def write(self, scans: Sequence[Scan]) -> None:
        """See ScoreWriter."""
        if not self._begun:
            self._begun = True
            self._named = _named(scans)
            self._rows.writerow(header_of(scans))
        names = [as_cell(found.recording.stream) for found in scans]
        cells = [_Cells(found) for found in scans]
        for at, row in rows_in_order(scans):
            self._rows.writerow([names[at], *cells[at].row(row)] if self._named else cells[at].row(row))


class _Cells:
    """The cells of the rows of one stream."""

    def __init__(self, found: Scan) -> None:
        self._found = found
        self._observed = np.isfinite(found.recording.values)
        self._times = found.recording.times_us
        self._difference = found.recording.values - found.expected[:, :, 1]

    def row(self, row: int) -> list[object]:
        found = self._found
        cells: list[object] = [iso(int(self._times[row])), repr(float(found.score[row]))]
        cells += [STATUSES[found.status[row]], int(found.alert[row])]
        expected = found.expected[row].tolist()
        observed = self._observed[row].tolist()
        for channel, there in enumerate(observed):
            cells += [_shown(expected[channel][1]), f"{found.residual[row, channel]:.6g}" if there else ""]
        cells.append(REASONS[found.reason[row]])
        for channel, there in enumerate(observed):
            low, _, high = expected[channel]
            cells += [
                _shown(self._difference[row, channel], 6) if there else "",
                f"{found.attribution[row, channel]:.4g}",
            ]
            cells += [_shown(low, 7), _shown(high, 7)]
        return cells


class _JsonLines:
    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, scans: Sequence[Scan]) -> None:
        """See ScoreWriter."""
        times = [found.recording.times_us for found in scans]
        for at, row in rows_in_order(scans):
            found = scans[at]
            line = {
                "stream": found.recording.stream,
                "timestamp": iso(int(times[at][row])),
                "score": float(found.score[row]),
                "status": STATUSES[found.status[row]],
                "alert": bool(found.alert[row]),
                "reason": REASONS[found.reason[row]],
                "channels": {
                    name: _of_channel(found, row, place) for place, name in enumerate(found.recording.channels)
                },
            }
            self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def _of_channel(found: Scan, row: int, channel: int) -> dict[str, float | None]:
    low, mid, high = found.expected[row, channel].tolist()
    value = float(found.recording.values[row, channel])
    there = bool(np.isfinite(value))
    numbers = {
        "value": value, "expected": mid, "low": low, "high": high, "difference": value - mid,
        "residual": float(found.residual[row, channel]) if there else float("nan"),
        "attribution": float(found.attribution[row, channel]),
    }  # fmt: skip
    return {name: number if np.isfinite(number) else None for name, number in numbers.items()}


class _Parquet:
    """Collects frames and writes them in the end: a Parquet file has its description there."""

    def __init__(self, path: Path) -> None:
        try:
            import polars  # noqa: F401 - refused before the scan
        except ImportError as error:
            raise GatewatchError("--format parquet needs polars: pip install 'gatewatch[train]'") from error
        self._path = path
        self._frames: list[polars.DataFrame] = []

    def write(self, scans: Sequence[Scan]) -> None:
        """See ScoreWriter."""
        import polars

        order = list(rows_in_order(scans))
        frames = [_frame(found, named=_named(scans)) for found in scans]
        if len(frames) == 1 and scans[0].recording.places is None:
            self._frames.append(frames[0])
            return
        starts = np.concatenate([[0], np.cumsum([len(frame) for frame in frames])])
        self._frames.append(polars.concat(frames)[[int(starts[at]) + row for at, row in order]])

    def close(self) -> None:
        import polars

        if self._frames:
            polars.concat(self._frames).write_parquet(self._path)


def _frame(found: Scan, *, named: bool) -> polars.DataFrame:
    import polars

    recording = found.recording
    observed = np.isfinite(recording.values)
    columns: dict[str, Any] = {"stream": [recording.stream] * len(recording)} if named else {}
    columns["timestamp"] = polars.Series(recording.times_us).cast(polars.Datetime("us", "UTC"))
    columns["score"] = found.score
    columns["status"] = [STATUSES[status] for status in found.status]
    columns["alert"] = found.alert
    mid = found.expected[:, :, 1]
    for at, name in enumerate(recording.channels):
        columns[f"{name}.expected"] = mid[:, at]
        columns[f"{name}.residual"] = np.where(observed[:, at], found.residual[:, at], np.nan)
    columns["reason"] = [REASONS[reason] for reason in found.reason]
    for at, name in enumerate(recording.channels):
        columns[f"{name}.difference"] = recording.values[:, at] - mid[:, at]
        columns[f"{name}.attribution"] = found.attribution[:, at]
        columns[f"{name}.low"], columns[f"{name}.high"] = found.expected[:, at, 0], found.expected[:, at, 2]
    return polars.DataFrame(columns, nan_to_null=True)


def _shown(number: float, digits: int = 12) -> str:
    return f"{number:.{digits}g}" if np.isfinite(number) else ""


def iso(time_us: int) -> str:
    """RFC 3339 in UTC, in whole seconds where they are."""
    moment = EPOCH + timedelta(microseconds=time_us)
    finest = "seconds" if time_us % 1_000_000 == 0 else "milliseconds" if time_us % 1000 == 0 else "microseconds"
    return moment.isoformat(timespec=finest).replace("+00:00", "Z")
