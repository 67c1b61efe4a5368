"""Recordings: readings of one stream in a CSV or Parquet file, as arrays."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from models.errors import RecordingError

SUFFIXES = (".csv", ".csv.gz", ".parquet")
MISSING = frozenset({"", "nan", "null", "none", "na", "n/a"})
LARGEST = float(np.finfo(np.float32).max)

LATEST_S = 1e11
"""In the year 5138; a larger number is in milliseconds, and what is not before it can be written as a date."""


@dataclass(frozen=True)
class Recording:
    """The readings of one stream in the order in which they were taken; every row of a file is a reading.

    Attributes:
        stream: the stream's name: the `stream` column, or else the file's name without its ending.
        channels: names of the C channels.
        timestamps_ms: (N,) Unix time in milliseconds, as recorded: it may stand still or step back.
        values: (N, C) physical units; NaN is a missing value.
    """

    stream: str
    channels: tuple[str, ...]
    timestamps_ms: NDArray[np.int64]
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.timestamps_ms)

    def rows(self, start: int, stop: int | None = None) -> Recording:
        """The readings from row `start` up to, not including, row `stop`."""
        return Recording(self.stream, self.channels, self.timestamps_ms[start:stop], self.values[start:stop])

    def only(self, channels: Sequence[str]) -> Recording:
        """The readings of some channels alone, in the order given.

        Raises:
            RecordingError: it has no such channel.
        """
        unknown = [channel for channel in channels if channel not in self.channels]
        if unknown:
            raise RecordingError(f"{self.stream}: no channel {', '.join(unknown)}; it has {', '.join(self.channels)}")
        order = [self.channels.index(channel) for channel in channels]
        return Recording(self.stream, tuple(channels), self.timestamps_ms, self.values[:, order])


def recording_files(paths: Iterable[Path]) -> list[Path]:
    """The recording files among files and folders (searched in depth), folders in order of name.

    Raises:
        RecordingError: a path that does not exist, or a folder without a recording.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
            if not inside:
                raise RecordingError(
                    f"{path}: no recording in this folder; expected files ending in {', '.join(SUFFIXES)}"
                )
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise RecordingError(f"{path}: no such file or folder")
    return found


def stem(path: Path) -> str:
    """A recording's name: the file's name without `.csv`, `.csv.gz` or `.parquet`."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.stem


def read_recordings(path: Path) -> list[Recording]:
    """Read one file: a `timestamp` column, one column per channel and, for several streams in a file, `stream`.

    Times are RFC 3339 (without a zone: UTC) or Unix seconds. An empty cell, `nan`, `null` or `none` is a missing value.

    Raises:
        RecordingError: names file, row and column, what stood there and what was expected.
    """
    if not path.name.endswith(SUFFIXES):
        raise RecordingError(f"{path}: not a recording; expected a file ending in {', '.join(SUFFIXES)}")
    try:
        if path.name.endswith(".parquet"):
            return _assemble(path, *_parquet_table(path))
        opener = gzip.open if path.name.endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            return _assemble(path, *_csv_table(path, file))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise RecordingError(f"{path}: cannot be read: {error}") from error


def _csv_table(path: Path, file: TextIO) -> tuple[list[str], Iterator[list[str]]]:
    rows = csv.reader(file)
    header = next(rows, None)
    if not header or not any(cell.strip() for cell in header):
        raise RecordingError(f"{path}: the file is empty; expected a header line with a timestamp column and channels")

    def checked() -> Iterator[list[str]]:
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise RecordingError(f"{path}, line {rows.line_num}: {len(row)} cells; the header has {len(header)}")
            yield row

    return [name.strip() for name in header], checked()


def _parquet_table(path: Path) -> tuple[list[str], Iterator[list[object]]]:
    try:
        import polars
    except ImportError as error:
        raise RecordingError(f"{path}: reading Parquet needs polars; pip install 'gatewatch[train]'") from error
    try:
        frame = polars.read_parquet(path)
    except polars.exceptions.PolarsError as error:
        raise RecordingError(f"{path}: not a readable Parquet file: {error}") from error
    return frame.columns, (list(row) for row in frame.iter_rows())


def _assemble(path: Path, header: list[str], rows: Iterator[Sequence[object]]) -> list[Recording]:
    if "timestamp" not in header:
        raise RecordingError(f"{path}: no column `timestamp`; the header has {', '.join(header)}")
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise RecordingError(f"{path}: column {', '.join(sorted(twice))} stands twice in the header")
    time_at = header.index("timestamp")
    stream_at = header.index("stream") if "stream" in header else None
    channels = [(at, name) for at, name in enumerate(header) if name not in ("timestamp", "stream")]
    if not channels:
        raise RecordingError(f"{path}: no channel; expected at least one column beside timestamp")
    empty = [at + 1 for at, name in channels if not name]
    if empty:
        raise RecordingError(f"{path}: column {empty[0]} has no name in the header")

    times: dict[str, list[int]] = {}
    values: dict[str, list[list[float]]] = {}
    for number, row in enumerate(rows, start=2):
        where = f"{path}, row {number}"
        stream = stem(path) if stream_at is None else str(row[stream_at])
        times.setdefault(stream, []).append(_time_ms(row[time_at], where))
        values.setdefault(stream, []).append([_value(row[at], where, name) for at, name in channels])
    if not times:
        raise RecordingError(f"{path}: a header and no reading")
    names = tuple(name for _, name in channels)
    return [
        Recording(stream, names, np.array(times[stream], np.int64), np.array(values[stream], np.float32))
        for stream in times
    ]


def _value(cell: object, where: str, column: str) -> float:
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING):
        return math.nan
    try:
        value = _number(cell)
    except (TypeError, ValueError):
        raise RecordingError(f"{where}, column {column}: {cell!r:.80} is not a number") from None
    if abs(value) > LARGEST:
        raise RecordingError(f"{where}, column {column}: {cell!r:.80} is larger than a float32 can hold (3.4e38)")
    return value


def _number(cell: object) -> float:
    """Raises TypeError or ValueError for what is no number, also for what only Python takes for one: 1_000, １."""
    if isinstance(cell, str) and ("_" in cell or not cell.isascii()):
        raise ValueError
    return float(cell)  # type: ignore[arg-type]


def _time_ms(cell: object, where: str) -> int:
    seconds = _seconds(cell)
    if seconds is None:
        raise RecordingError(
            f"{where}, column timestamp: {cell!r:.80} is not a time; expected RFC 3339 or Unix seconds"
        )
    if not 0 <= seconds < LATEST_S:
        raise RecordingError(
            f"{where}, column timestamp: {cell!r:.80} is not a time between 1970 and 5138; expected RFC 3339 or Unix "
            "seconds"
        )
    return round(seconds * 1000)


def _seconds(cell: object) -> float | None:
    """Unix seconds of a number, a date and time, or the text of either; None for anything else."""
    try:
        if isinstance(cell, datetime):
            return _unix_s(cell)
        return _number(cell)
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        return _unix_s(datetime.fromisoformat(str(cell).strip()))
    except (ValueError, OverflowError):
        return None


def _unix_s(moment: datetime) -> float:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()
