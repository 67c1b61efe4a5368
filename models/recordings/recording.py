"""Recordings: readings of one stream in a CSV or Parquet file, as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.files import SUFFIXES, TEXTS
from gatewatch.models.recordings.files import stem as stem
from gatewatch.models.recordings.options import AS_FOUND, ReadOptions
from gatewatch.models.recordings.reading import Reader
from gatewatch.models.recordings.tables import block_rows
from gatewatch.models.recordings.understanding import LONGEST_NAME as LONGEST_NAME
from gatewatch.models.recordings.understanding import MOST_CHANNELS as MOST_CHANNELS
from gatewatch.models.text import listed

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

    Hidden files and folders in it, and files that a spreadsheet keeps while another is open, are no recordings.

    Raises:
        RecordingError: a path that does not exist, or a folder without a recording.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            named = (p for p in path.rglob("*") if p.name.endswith(SUFFIXES) and not _hidden(p.relative_to(path)))
            inside = sorted(p for p in named if p.is_file())
            if not inside:
                raise RecordingError(
                    f"{path}: no recording in this folder; expected files ending in {', '.join(SUFFIXES)}; name one "
                    f"that ends in {', '.join(TEXTS)} itself"
                )
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise RecordingError(f"{path}: no such file or folder")
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "~$")) for part in path.parts)


def read_recordings(
    path: Path, options: ReadOptions = AS_FOUND, tell: Callable[[Reader], None] | None = None
) -> list[Recording]:
    """Read one file whole, a recording for each of its streams; see `read_parts`.

    Raises:
        RecordingError: names file, row and column, what stood there and what was expected.
    """
    streams: dict[str, list[Recording]] = {}
    held = 0
    for piece in read_pieces(path, MOST_IN_MEMORY, options, tell):
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


def read_pieces(
    path: Path,
    most_values: int = MOST_IN_PARQUET,
    options: ReadOptions = AS_FOUND,
    tell: Callable[[Reader], None] | None = None,
) -> Iterator[Recording]:
    """`read_parts`, one piece after the other."""
    return (piece for part in read_parts(path, most_values, options, tell) for piece in part)


def read_parts(
    path: Path,
    most_values: int = MOST_IN_PARQUET,
    options: ReadOptions = AS_FOUND,
    tell: Callable[[Reader], None] | None = None,
) -> Iterator[list[Recording]]:
    """Read one file part by part, in each at most one piece of a stream.

    It is a table with a column of times; how it is written is found out, see `Reader`. Times without a zone are UTC if
    no other is named. An empty cell and words such as `nan`, `null` and `Bad` are missing values. A stream's readings
    are its pieces joined in the order in which they come. What is read is bounded before it is held: columns, rows,
    what a packed file becomes; a file that grows is read up to where it ended.

    Args:
        most_values: of a Parquet file, which may have to be unpacked whole.
        options: what is known of how it is written.
        tell: called with the reader when the file is understood, and again when it is read.

    Raises:
        RecordingError: names file, row and column, what stood there and what was expected.
    """
    reader = Reader(path, options, most_values)
    if tell is not None:
        tell(reader)
    for part in reader.parts():
        yield [Recording.at_us(one.stream, one.channels, one.times_us, one.values, one.places) for one in part]
    if tell is not None:
        tell(reader)
