"""Recordings: readings of one stream in a CSV or Parquet file, as arrays."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, TextIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.errors import RecordingError

if TYPE_CHECKING:
    import polars

SUFFIXES = (".csv", ".csv.gz", ".parquet")
MISSING = frozenset({"", "nan", "null", "none", "na", "n/a"})
LARGEST = float(np.finfo(np.float32).max)

LATEST_S = 1e11
"""In the year 5138; a larger number is in milliseconds, and what is not before it can be written as a date."""

BLOCK_CELLS = 2**18
"""Read and worked on at once: some 20 MB as text."""


class Source(Protocol):
    """A recording wherever it lies, in memory (`Recording`) or in a file: whoever needs rows asks for them."""

    @property
    def stream(self) -> str:
        """The stream's name."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the C channels."""

    def __len__(self) -> int:
        """N, readings."""

    def rows(self, start: int, stop: int | None = None) -> Recording:
        """The readings from row `start` up to, not including, row `stop`, in memory."""

    def only(self, channels: Sequence[str]) -> Self:
        """The readings of some channels alone, in the order given. Raises RecordingError."""


AnySource = TypeVar("AnySource", bound=Source)


def block_rows(columns: int) -> int:
    """So many rows may be in memory at once."""
    return max(1, BLOCK_CELLS // columns)


def pieces(recording: Source) -> Iterator[Recording]:
    """The readings in order, so many at once as may be in memory."""
    rows = block_rows(len(recording.channels))
    return (recording.rows(start, start + rows) for start in range(0, len(recording), rows))


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
    """Read one file whole, a recording for each of its streams; see `read_pieces`.

    Raises:
        RecordingError: names file, row and column, what stood there and what was expected.
    """
    streams: dict[str, list[Recording]] = {}
    for piece in read_pieces(path):
        streams.setdefault(piece.stream, []).append(piece)
    return [_joined(pieces) for pieces in streams.values()]


def _joined(pieces: Sequence[Recording]) -> Recording:
    times = np.concatenate([piece.timestamps_ms for piece in pieces])
    values = np.concatenate([piece.values for piece in pieces])
    return Recording(pieces[0].stream, pieces[0].channels, times, values)


def read_pieces(path: Path) -> Iterator[Recording]:
    """Read one file piece by piece: a `timestamp` column, one column per channel and, for several streams, `stream`.

    Times are RFC 3339 (without a zone: UTC) or Unix seconds. An empty cell, `nan`, `null` or `none` is a missing value.
    A stream's readings are its pieces joined in the order in which they come.

    Raises:
        RecordingError: names file, row and column, what stood there and what was expected.
    """
    if not path.name.endswith(SUFFIXES):
        raise RecordingError(f"{path}: not a recording; expected a file ending in {', '.join(SUFFIXES)}")
    try:
        if path.name.endswith(".parquet"):
            yield from _pieces(path, *_parquet_table(path))
            return
        opener = gzip.open if path.name.endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield from _pieces(path, *_csv_table(path, file))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise RecordingError(f"{path}: cannot be read: {error}") from error


class _Block(Protocol):
    """Some rows of a table."""

    def rows(self) -> Iterable[Sequence[object]]:
        """Row by row."""

    def column(self, at: int) -> Sequence[object]:
        """The cells of one column."""

    def numbers(self, columns: Sequence[int]) -> NDArray[np.float64]:
        """(N, C) the cells of some columns, missing ones as NaN; ValueError where a cell needs a closer look."""


@dataclass(frozen=True)
class _TextBlock:
    cells: list[list[str]]

    def rows(self) -> Iterable[Sequence[object]]:
        return self.cells

    def column(self, at: int) -> Sequence[object]:
        return [row[at] for row in self.cells]

    def numbers(self, columns: Sequence[int]) -> NDArray[np.float64]:
        cells = [row[at] or "nan" for row in self.cells for at in columns]
        text = "".join(cells)
        if "_" in text or not text.isascii():
            raise ValueError
        return np.fromiter(map(float, cells), np.float64, len(cells)).reshape(-1, len(columns))


@dataclass(frozen=True)
class _FrameBlock:
    frame: polars.DataFrame

    def rows(self) -> Iterable[Sequence[object]]:
        return self.frame.iter_rows()

    def column(self, at: int) -> Sequence[object]:
        return self.frame.to_series(at).to_list()

    def numbers(self, columns: Sequence[int]) -> NDArray[np.float64]:
        picked = [self.frame.to_series(at) for at in columns]
        if not all(series.dtype.is_float() or series.dtype.is_integer() for series in picked):
            raise ValueError
        return np.stack([series.to_numpy().astype(np.float64) for series in picked], axis=1)


def _csv_table(path: Path, file: TextIO) -> tuple[list[str], Iterator[_Block]]:
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

    def blocks() -> Iterator[_Block]:
        rest = checked()
        while cells := list(islice(rest, block_rows(len(header)))):
            yield _TextBlock(cells)

    return [name.strip() for name in header], blocks()


def _parquet_table(path: Path) -> tuple[list[str], Iterator[_Block]]:
    try:
        import polars
    except ImportError as error:
        raise RecordingError(f"{path}: reading Parquet needs polars; pip install 'gatewatch[train]'") from error
    with path.open("rb"):
        pass  # what cannot be opened is told as of any other file
    unreadable = (polars.exceptions.PolarsError, polars.exceptions.PanicException)
    try:
        table = polars.scan_parquet(path)
        header = table.collect_schema().names()
    except unreadable as error:
        raise RecordingError(f"{path}: not a readable Parquet file: {error}") from error

    def blocks() -> Iterator[_Block]:
        try:
            for frame in table.collect_batches(chunk_size=block_rows(len(header)), maintain_order=True):
                yield from (_FrameBlock(part) for part in frame.iter_slices(block_rows(len(header))))
        except unreadable as error:
            raise RecordingError(f"{path}: not a readable Parquet file: {error}") from error

    return header, blocks()


def _pieces(path: Path, header: list[str], blocks: Iterator[_Block]) -> Iterator[Recording]:
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

    names = tuple(name for _, name in channels)
    row = 2
    for block in blocks:
        try:
            times, values = _arrays(block, time_at, [at for at, _ in channels])
        except ValueError:
            times, values = _arrays_cell_by_cell(path, row, block, time_at, channels)
        row += len(times)
        if stream_at is None:
            yield Recording(stem(path), names, times, values)
            continue
        streams: dict[str, list[int]] = {}
        for at, cell in enumerate(block.column(stream_at)):
            streams.setdefault(str(cell), []).append(at)
        for stream, rows in streams.items():
            yield Recording(stream, names, times[rows], values[rows])
    if row == 2:
        raise RecordingError(f"{path}: a header and no reading")


def _arrays(block: _Block, time_at: int, columns: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Times and values of a block in which nothing is unusual; ValueError of any other."""
    times = np.array([time_ms(cell, "") for cell in block.column(time_at)], np.int64)
    values = block.numbers(columns)
    if (np.abs(values) > LARGEST).any():
        raise ValueError
    return times, values.astype(np.float32)


def _arrays_cell_by_cell(
    path: Path, first_row: int, block: _Block, time_at: int, channels: Sequence[tuple[int, str]]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The same of any block; RecordingError names the first cell that is wrong."""
    times, values = [], []
    for number, row in enumerate(block.rows(), start=first_row):
        where = f"{path}, row {number}"
        times.append(time_ms(row[time_at], where))
        values.append([_value(row[at], where, name) for at, name in channels])
    return np.array(times, np.int64), np.array(values, np.float32)


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


def time_ms(cell: object, where: str, column: str = "timestamp") -> int:
    """Unix milliseconds of an RFC 3339 time or of Unix seconds. Raises RecordingError for anything else."""
    seconds = _seconds(cell)
    if seconds is None:
        raise RecordingError(f"{where}, column {column}: {cell!r:.80} is not a time; expected RFC 3339 or Unix seconds")
    if not 0 <= seconds < LATEST_S:
        raise RecordingError(
            f"{where}, column {column}: {cell!r:.80} is not a time between 1970 and 5138; expected RFC 3339 or Unix "
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
