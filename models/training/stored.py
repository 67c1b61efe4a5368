"""Recordings on disk: files of any number and size become one temporary file, from which rows are read when needed.

Its rows are binary, each a time and C values, so that any window of any recording is one short read. It is read, not
mapped: a mapping would count every page it ever touched as memory of the process. The file has no name: it is gone when
the process ends, however it ends. It lies where the system keeps temporary files; the variable TMPDIR moves it.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.recording import Recording, read_pieces


class TemporaryRows:
    """The temporary file: open, without a name, until nobody needs it."""

    def __init__(self) -> None:
        with tempfile.TemporaryFile(buffering=0) as file:
            self.descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.descriptor)
        self.size = 0

    def append(self, content: bytes) -> int:
        """Write at the end; returns where it lies, in bytes.

        Raises:
            RecordingError: it cannot be written, for instance because the disk is full.
        """
        rest, lies_at = memoryview(content), self.size
        try:
            while rest:  # the last bytes on a full disk are taken without an error
                rest = rest[os.write(self.descriptor, rest) :]
        except OSError as error:
            raise RecordingError(
                f"the recordings do not fit into the temporary file in {tempfile.gettempdir()}: {error.strerror}; make "
                "room, or name another folder in the variable TMPDIR"
            ) from error
        self.size += len(content)
        return lies_at

    def read(self, length: int, offset: int) -> bytes:
        """So many bytes from there on."""
        return os.pread(self.descriptor, length, offset)


@dataclass(frozen=True)
class StoredRecording:
    """A recording in the temporary file: a models.recordings.recording.Source.

    Attributes:
        stream: the stream's name.
        channels: names of its C channels, in the order in which `rows` gives them.
        file: the temporary file; it stays open as long as a recording needs it.
        stored_channels: the names in the order in which they are stored.
        first_rows, offsets: of each stretch of rows that lie together, its first row and where it lies, in bytes.
        length: N, readings.
    """

    stream: str
    channels: tuple[str, ...]
    file: TemporaryRows = field(repr=False)
    stored_channels: tuple[str, ...]
    first_rows: tuple[int, ...]
    offsets: tuple[int, ...]
    length: int

    def __len__(self) -> int:
        return self.length

    def rows(self, start: int, stop: int | None = None) -> Recording:
        """The readings from row `start` up to, not including, row `stop`, read from the file."""
        start, stop, _ = slice(start, stop).indices(self.length)
        dtype = row_dtype(len(self.stored_channels))
        found = [np.empty(0, dtype)]
        stretch = max(0, bisect_right(self.first_rows, start) - 1)
        while start < stop:
            ends = self.first_rows[stretch + 1] if stretch + 1 < len(self.first_rows) else self.length
            count = min(stop, ends) - start
            offset = self.offsets[stretch] + (start - self.first_rows[stretch]) * dtype.itemsize
            found.append(np.frombuffer(self.file.read(count * dtype.itemsize, offset), dtype))
            start, stretch = start + count, stretch + 1
        rows = found[1] if len(found) == 2 else np.concatenate(found)
        kept = Recording.at_us(self.stream, self.stored_channels, rows["us"], rows["values"])
        return kept if self.channels == self.stored_channels else kept.only(self.channels)

    def only(self, channels: Sequence[str]) -> StoredRecording:
        """The readings of some channels alone, in the order given.

        Raises:
            RecordingError: it has no such channel.
        """
        self.rows(0, 0).only(channels)
        return replace(self, channels=tuple(channels))


def row_dtype(channels: int) -> np.dtype[np.void]:
    """How a row lies in the file."""
    return np.dtype([("us", "<i8"), ("values", "<f8", (channels,))])


def store(pieces: Iterable[Recording], file: TemporaryRows) -> list[StoredRecording]:
    """Append the recordings that come in pieces, one for each stream, in the order in which the streams first come.

    Raises:
        RecordingError: the file cannot be written.
    """
    channels: dict[str, tuple[str, ...]] = {}
    stretches: dict[str, list[tuple[int, int]]] = {}
    lengths: dict[str, int] = {}
    last_stream = None
    for piece in pieces:
        rows = np.empty(len(piece), row_dtype(len(piece.channels)))
        rows["us"], rows["values"] = piece.times_us, piece.values
        offset, length = file.append(rows.tobytes()), lengths.get(piece.stream, 0)
        channels[piece.stream] = piece.channels
        if piece.stream != last_stream:
            stretches.setdefault(piece.stream, []).append((length, offset))
        lengths[piece.stream] = length + len(piece)
        last_stream = piece.stream
    found = []
    for stream, names in channels.items():
        first_rows, offsets = zip(*stretches[stream], strict=True)
        found.append(StoredRecording(stream, names, file, names, first_rows, offsets, lengths[stream]))
    return found


def store_files(paths: Iterable[Path]) -> list[StoredRecording]:
    """The recordings of files, in the order of the files.

    Raises:
        RecordingError: a file cannot be read as a recording, or the temporary file cannot be written.
    """
    file = TemporaryRows()
    return [recording for path in paths for recording in store(read_pieces(path), file)]
