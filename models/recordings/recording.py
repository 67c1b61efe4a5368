"""Recordings: readings of one stream in a CSV or Parquet file, as arrays."""

from __future__ import annotations

import csv
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.files import open_text
from gatewatch.models.recordings.tables import Block, block_rows, csv_table, parquet_table
from gatewatch.models.recordings.values import LARGEST, time_us, value
from gatewatch.models.text import listed

SUFFIXES = (".csv", ".csv.gz", ".parquet")

MOST_CHANNELS, LONGEST_NAME = 4096, 256
"""As many as a model can have, and characters of the name of one."""

MOST_STREAMS = 10_000
"""In one file."""

MOST_IN_MEMORY = 2**26
"""Values and times of a file that is read whole: half a gigabyte, and some four while it is scanned."""

MOST_IN_PARQUET = 2**30
"""Values and times of a file that may come unpacked at once, by groups of rows."""


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
        timestamps_ms: (N,) Unix time in milliseconds, as recorded: it may stand still or step back. Scored is by these.
        values: (N, C) float64, physical units; NaN is a missing value.
        micros: (N,) microseconds to add to those, -500 to 499; None where all of them are 0.
        places: (N,) which row of its file each reading is, from 0; None where all rows are of this stream.
    """

    stream: str
    channels: tuple[str, ...]
    timestamps_ms: NDArray[np.int64]
    values: NDArray[Any]
    micros: NDArray[np.int16] | None = None
    places: NDArray[np.int64] | None = None

    @classmethod
    def at_us(
        cls,
        stream: str,
        channels: tuple[str, ...],
        times_us: NDArray[np.int64],
        values: NDArray[Any],
        places: NDArray[np.int64] | None = None,
    ) -> Recording:
        """A recording with times in microseconds."""
        milliseconds = (times_us + 500) // 1000
        micros = (times_us - 1000 * milliseconds).astype(np.int16)
        return cls(stream, channels, milliseconds, values, micros if micros.any() else None, places)

    @property
    def times_us(self) -> NDArray[np.int64]:
        """(N,) Unix time in microseconds."""
        return 1000 * self.timestamps_ms + (0 if self.micros is None else self.micros)

    def __len__(self) -> int:
        return len(self.timestamps_ms)

    def rows(self, start: int, stop: int | None = None) -> Recording:
        """The readings from row `start` up to, not including, row `stop`."""
        return self.taking(slice(start, stop))

    def taking(self, rows: slice | Sequence[int]) -> Recording:
        """The readings of some rows."""
        micros = None if self.micros is None else self.micros[rows]
        places = None if self.places is None else self.places[rows]
        times, values = self.timestamps_ms[rows], self.values[rows]
        return replace(self, timestamps_ms=times, values=values, micros=micros, places=places)

    def only(self, channels: Sequence[str]) -> Recording:
        """The readings of some channels alone, in the order given.

        Raises:
            RecordingError: it has no such channel.
        """
        unknown = [channel for channel in channels if channel not in self.channels]
        if unknown:
            raise RecordingError(f"{self.stream}: no channel {listed(unknown)}; it has {listed(self.channels)}")
        order = [self.channels.index(channel) for channel in channels]
        return replace(self, channels=tuple(channels), values=self.values[:, order])


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
    held = 0
    for piece in read_pieces(path, MOST_IN_MEMORY):
        streams.setdefault(piece.stream, []).append(piece)
        held += piece.values.size + len(piece)
        if held > MOST_IN_MEMORY:
            raise RecordingError(
                f"{path}: more than {MOST_IN_MEMORY} values, which is more than is read into memory; split the file"
            )
    return [joined(pieces) for pieces in streams.values()]


def joined(pieces: Sequence[Recording]) -> Recording:
    """Readings of one stream, one recording after the other, with the channels of the first. Raises RecordingError."""
    first = pieces[0]
    times = np.concatenate([piece.times_us for piece in pieces])
    values = np.concatenate([piece.only(first.channels).values for piece in pieces])
    places = [piece.places for piece in pieces if piece.places is not None]
    return Recording.at_us(first.stream, first.channels, times, values, np.concatenate(places) if places else None)


def read_pieces(path: Path, most_values: int = MOST_IN_PARQUET) -> Iterator[Recording]:
    """Read one file piece by piece: a `timestamp` column, one column per channel and, for several streams, `stream`.

    Times are RFC 3339 (without a zone: UTC) or Unix seconds. An empty cell, `nan`, `null` or `none` is a missing value.
    A stream's readings are its pieces joined in the order in which they come. What is read is bounded before it is
    held: columns, rows, what a packed file becomes; a file that grows is read up to where it ended.

    Args:
        most_values: of a Parquet file, which may have to be unpacked whole.

    Raises:
        RecordingError: names file, row and column, what stood there and what was expected.
    """
    if not path.name.endswith(SUFFIXES):
        raise RecordingError(f"{path}: not a recording; expected a file ending in {', '.join(SUFFIXES)}")
    try:
        if path.name.endswith(".parquet"):
            yield from _pieces(path, *parquet_table(path, most_values))
            return
        with open_text(path) as file:
            yield from _pieces(path, *csv_table(path, file))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise RecordingError(f"{path}: cannot be read: {error}") from error


def _pieces(path: Path, header: list[str], blocks: Iterator[Block]) -> Iterator[Recording]:
    _check_header(path, header)
    time_at = header.index("timestamp")
    stream_at = header.index("stream") if "stream" in header else None
    channels = [(at, name) for at, name in enumerate(header) if name not in ("timestamp", "stream")]
    names = tuple(name for _, name in channels)
    row, known = 2, set[str]()
    for block in blocks:
        try:
            times, values = _arrays(block, time_at, [at for at, _ in channels])
        except ValueError:
            times, values = _arrays_cell_by_cell(path, row, block, time_at, channels)
        row += len(times)
        if stream_at is None:
            yield Recording.at_us(stem(path), names, times, values)
            continue
        streams: dict[str, list[int]] = {}
        for at, cell in enumerate(block.column(stream_at)):
            streams.setdefault(str(cell), []).append(at)
        known.update(streams)
        if len(known) > MOST_STREAMS or max(map(len, streams)) > LONGEST_NAME:
            longest = max(map(len, streams))
            raise RecordingError(
                f"{path}, row {row - 1}: {len(known)} streams, with names of up to {longest} characters; at most "
                f"{MOST_STREAMS} of at most {LONGEST_NAME} are read of a file"
            )
        for stream, rows in streams.items():
            places = np.array(rows, np.int64) + (row - 2 - len(times))
            yield Recording.at_us(stream, names, times[rows], values[rows], places)
    if row == 2:
        raise RecordingError(f"{path}: a header and no reading")


def _check_header(path: Path, header: Sequence[str]) -> None:
    if len(header) > MOST_CHANNELS + 2:
        raise RecordingError(f"{path}: {len(header)} columns; at most {MOST_CHANNELS} channels are read")
    if "timestamp" not in header:
        raise RecordingError(f"{path}: no column `timestamp`; the header has {listed(header)}")
    twice = sorted(name for name, count in Counter(header).items() if count > 1 and name)
    if twice:
        raise RecordingError(f"{path}: column {listed(twice)} stands twice in the header")
    if not set(header) - {"timestamp", "stream"}:
        raise RecordingError(f"{path}: no channel; expected at least one column beside timestamp")
    for at, name in enumerate(header, start=1):
        if not name:
            raise RecordingError(f"{path}: column {at} has no name in the header")
        if len(name) > LONGEST_NAME:
            raise RecordingError(
                f"{path}: column {at} has a name of {len(name)} characters, {name[:20]}...; at most {LONGEST_NAME}"
            )


def _arrays(block: Block, time_at: int, columns: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Times and values of a block in which nothing is unusual; ValueError of any other."""
    times, values = block.times_us(time_at), block.numbers(columns)
    if (np.abs(values) > LARGEST).any():
        raise ValueError
    return times, values


def _arrays_cell_by_cell(
    path: Path, first_row: int, block: Block, time_at: int, channels: Sequence[tuple[int, str]]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The same of any block; RecordingError names the first cell that is wrong."""
    times, values = [], []
    for number, row in enumerate(block.rows(), start=first_row):
        where = f"{path}, row {number}"
        times.append(time_us(row[time_at], where))
        values.append([value(row[at], where, name) for at, name in channels])
    return np.array(times, np.int64), np.array(values, np.float64)
