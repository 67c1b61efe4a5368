"""Recordings: readings of one stream in a CSV or Parquet file, as arrays."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.cells import LARGEST, time_ms, value
from models.errors import RecordingError
from models.tables import Block, block_rows, csv_table, parquet_table

SUFFIXES = (".csv", ".csv.gz", ".parquet")


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
            yield from _pieces(path, *parquet_table(path))
            return
        opener = gzip.open if path.name.endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield from _pieces(path, *csv_table(path, file))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise RecordingError(f"{path}: cannot be read: {error}") from error


def _pieces(path: Path, header: list[str], blocks: Iterator[Block]) -> Iterator[Recording]:
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


def _arrays(block: Block, time_at: int, columns: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Times and values of a block in which nothing is unusual; ValueError of any other."""
    times, values = block.times_ms(time_at), block.numbers(columns)
    if (np.abs(values) > LARGEST).any():
        raise ValueError
    return times, values.astype(np.float32)


def _arrays_cell_by_cell(
    path: Path, first_row: int, block: Block, time_at: int, channels: Sequence[tuple[int, str]]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The same of any block; RecordingError names the first cell that is wrong."""
    times, values = [], []
    for number, row in enumerate(block.rows(), start=first_row):
        where = f"{path}, row {number}"
        times.append(time_ms(row[time_at], where))
        values.append([value(row[at], where, name) for at, name in channels])
    return np.array(times, np.int64), np.array(values, np.float32)
