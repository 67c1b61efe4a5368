"""One file to pieces of readings: understood first (`Layout`), then read block by block, in bounded memory."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.column_names import GOOD
from gatewatch.models.recordings.files import SHEETS, SUFFIXES, TEXTS, open_text, stem
from gatewatch.models.recordings.long import Gathered
from gatewatch.models.recordings.options import AS_FOUND, ReadOptions
from gatewatch.models.recordings.sheets import blocks_of
from gatewatch.models.recordings.tables import (
    FOOT_ROWS,
    ROWS_BEFORE_FOOT,
    Block,
    Skipped,
    csv_blocks,
)
from gatewatch.models.recordings.time_styles import TimeStyle
from gatewatch.models.recordings.times import BadTime, TimeReader
from gatewatch.models.recordings.understanding import LONGEST_NAME, MOST_CHANNELS, Understanding
from gatewatch.models.recordings.values import LARGEST, number, value
from gatewatch.models.text import counted, visible

MOST_STREAMS = 10_000
"""In one file."""

START_US = 946_684_800_000_000
"""2000-01-01, from which rows without times are counted."""

UNREADABLE = (OSError, EOFError, UnicodeError, csv.Error, zlib.error)


class Piece(NamedTuple):
    """Readings of a stream: its name, C channels, (N,) microseconds, (N, C) values, (N,) rows of the file."""

    stream: str
    channels: tuple[str, ...]
    times_us: NDArray[np.int64]
    values: NDArray[np.float64]
    places: NDArray[np.int64] | None


class Reader:
    """One file, understood.

    Attributes:
        path: of the file.
        layout: how it is written.
        finished: whether all of it was read.
        expected_rows: how many readings there are, about; 0 if that is not known before the end.

    Raises:
        RecordingError: the file is none of readings, or cannot be understood without being told more.
    """

    def __init__(self, path: Path, options: ReadOptions = AS_FOUND, most_values: int = 2**30) -> None:
        if not path.name.endswith((*SUFFIXES, *TEXTS)):
            what = "a folder, which scan and train take" if path.is_dir() else "not a recording"
            raise RecordingError(f"{path}: {what}; expected a file ending in {', '.join((*SUFFIXES, *TEXTS))}")
        self.path, self._options = path, options.beside(path)
        self.finished = False
        self._skipped = Skipped()
        self._blank = self._poor = self._back = self._same = self._readings = 0
        try:
            understanding = Understanding(path, self._options, most_values)
            self.layout = understanding.layout()
        except UNREADABLE as error:
            raise RecordingError(f"{path}: cannot be read: {error}") from error
        self._blocks, self.expected_rows = understanding.blocks, understanding.expected_rows
        self._numbers = np.array(self._options.missing_numbers)

    def remarks(self) -> list[str]:
        """What was met while it was read, for people."""
        found = self._skipped.remarks()
        seen = self.layout.style.seen
        if seen:
            found.append(f"taken for missing: {', '.join(f'{word} ({count})' for word, count in seen.most_common(5))}")
        if self._poor:
            found.append(f"{counted(self._poor, 'value')} of poor quality taken for missing")
        if self._back:
            found.append(f"times step back {counted(self._back, 'time')}; rows are taken in their order")
        if self._same:
            found.append(f"{self._same} of {self._readings} readings have the time of the one before")
        return [visible(remark).replace("\n", " ") for remark in found]

    def parts(self) -> Iterator[list[Piece]]:
        """The readings, part by part: of each stream at most one piece a part, all their rows behind the part before.

        A table that is long, or newest first, is held until its end.

        Raises:
            RecordingError: names file, row and column, what stood there and what was expected.
        """
        layout = self.layout
        ends: dict[str, int] = {}
        try:
            parts = self._parts()
            if layout.times.newest_first and layout.tag_at is None:
                parts = iter([[_reversed(piece) for piece in part] for part in reversed(list(parts))])
            for part in parts:
                for piece in part:
                    self._count(piece, ends)
                yield part
        except UNREADABLE as error:
            raise RecordingError(f"{self.path}: cannot be read: {error}") from error
        if not ends:
            raise RecordingError(f"{self.path}: a header and no reading")
        self.finished = True

    def _count(self, piece: Piece, ends: dict[str, int]) -> None:
        before = ends.get(piece.stream)
        times = piece.times_us if before is None else np.concatenate([[before], piece.times_us])
        steps = np.diff(times)
        self._back += int((steps < 0).sum())
        self._same += int((steps == 0).sum())
        self._readings += len(piece.times_us)
        ends[piece.stream] = int(piece.times_us[-1])

    def _parts(self) -> Iterator[list[Piece]]:
        if self.path.name.endswith((".parquet", *SHEETS)):
            yield from self._of_blocks(self._blocks)
            return
        with open_text(self.path) as file:
            yield from self._of_blocks(csv_blocks(self.path, file, self.layout, self._skipped))

    def _of_blocks(self, blocks: Iterable[Block]) -> Iterator[list[Piece]]:
        layout = self.layout
        times = TimeReader(layout.times)
        gathered = Gathered(stem(self.path)) if layout.tag_at is not None else None
        row, known = layout.lines + 1, set[str]()
        for block, last in _with_last(blocks):
            micros, block = self._times(times, block, row, row - layout.lines - 1, last)
            values = self._values(block, row, len(micros))
            streams = self._streams(block, len(micros))
            row += len(micros)
            if gathered is not None and layout.tag_at is not None:
                tags = list(map(str, block.column(layout.tag_at)))[: len(micros)]
                kept = [at for at, tag in enumerate(tags) if tag not in self._options.leave_out]
                owners = None if streams is None else [streams[at] for at in kept]
                gathered.take(micros[kept], values[kept, 0], [tags[at] for at in kept], owners)
                continue
            if streams is None:
                places = np.arange(row - 2 - len(micros), row - 2) if layout.times.newest_first else None
                yield [Piece(stem(self.path), self._names, micros, values, places)]
                continue
            rows: dict[str, list[int]] = {}
            for at, stream in enumerate(streams):
                rows.setdefault(stream, []).append(at)
            self._check_streams(known, rows, row)
            part = []
            for stream, some in rows.items():
                places = np.array(some, np.int64) + (row - 2 - len(micros))
                part.append(Piece(stream, self._names, micros[some], values[some], places))
            yield part
        if gathered is not None:
            part = []
            for stream, names, micros, values, places in gathered.streams():
                self._check_streams(known, {stream: []}, row)
                if len(names) > MOST_CHANNELS:
                    raise RecordingError(
                        f"{self.path}: {len(names)} names of channels; at most {MOST_CHANNELS} are read"
                    )
                part.append(Piece(stream, names, micros, values, places))
            yield part

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.layout.channels)

    def _check_streams(self, known: set[str], streams: Mapping[str, object], row: int) -> None:
        known.update(streams)
        longest = max(map(len, streams))
        if len(known) > MOST_STREAMS or longest > LONGEST_NAME:
            raise RecordingError(
                f"{self.path}, row {row - 1}: {len(known)} streams, with names of up to {longest} characters; at most "
                f"{MOST_STREAMS} of at most {LONGEST_NAME} are read of a file"
            )

    def _times(
        self, times: TimeReader, block: Block, row: int, before: int, last: bool
    ) -> tuple[NDArray[np.int64], Block]:
        """The times of a block; the block without a foot at the end of the file that has none."""
        layout = self.layout
        if layout.every_us:
            count = len(block.column(0))
            return START_US + layout.every_us * np.arange(before, before + count), block
        if len(layout.time_at) == 1 and layout.times.kind in ("iso", "s") and layout.times.zone == TimeStyle().zone:
            found = block.times_us(layout.time_at[0])
            if found is not None:
                return found, block
        columns = [block.column(at) for at in layout.time_at]
        cells: Sequence[object] = columns[0]
        if len(columns) > 1:
            cells = [" ".join(map(str, parts)) for parts in zip(*columns, strict=True)]
        name = " + ".join(layout.names[at] for at in layout.time_at)
        try:
            return times.read(cells, f"{self.path}, ", row, name), block
        except BadTime as error:
            rest = cells[error.place :]
            known = [cell for cell in rest if _is_time(layout.times, cell)]
            if not last or known or len(rest) > FOOT_ROWS or before + error.place < ROWS_BEFORE_FOOT:
                raise
            rows = list(islice(block.rows(), len(cells)))
            self._skipped.foot += [", ".join(map(str, foot))[:60] for foot in rows[error.place :]]
            kept = next(iter(blocks_of(rows[: error.place], len(layout.names))), None)
            if kept is None:
                raise
            return times.read(cells[: error.place], f"{self.path}, ", row, name), kept

    def _values(self, block: Block, row: int, count: int) -> NDArray[np.float64]:
        """(N, C) the values of a block; RecordingError names the first cell that is wrong."""
        layout, columns = self.layout, self.layout.channels
        try:
            if any(column.behind for column in columns):
                raise ValueError
            values = block.numbers([column.at for column in columns], layout.style.decimal)[:count]
            if (np.abs(values) > LARGEST).any():
                raise ValueError
        except ValueError:
            values = self._cell_by_cell(block, row, count)
        for place, column in enumerate(columns):
            if column.quality_at is not None:
                poor = ~_are_good(block.column(column.quality_at)[:count]) & ~np.isnan(values[:, place])
                values[poor, place] = np.nan
                self._poor += int(poor.sum())
        return values if not len(self._numbers) else np.where(np.isin(values, self._numbers), np.nan, values)

    def _cell_by_cell(self, block: Block, row: int, count: int) -> NDArray[np.float64]:
        style, columns = self.layout.style, self.layout.channels
        found = []
        for place, cells in enumerate(islice(block.rows(), count), start=row):
            where = f"{self.path}, row {place}"
            found.append([value(cells[one.at], where, one.name, style, one.behind, one.words) for one in columns])
        return np.array(found, np.float64).reshape(-1, len(columns))

    def _streams(self, block: Block, count: int) -> list[str] | None:
        at = self.layout.streams
        if not at:
            return None
        columns = [block.column(one)[:count] for one in at]
        return ["/".join(map(str, cells)) for cells in zip(*columns, strict=True)]


def _with_last(blocks: Iterable[Block]) -> Iterator[tuple[Block, bool]]:
    """Blocks, and of each whether it is the last one."""
    each = iter(blocks)
    before = next(each, None)
    for block in each:
        if before is not None:
            yield before, False
        before = block
    if before is not None:
        yield before, True


def _is_time(style: TimeStyle, cell: object) -> bool:
    try:
        TimeReader(style).read([cell], "", 0, "")
    except BadTime:
        return False
    return True


def _are_good(cells: Sequence[object]) -> NDArray[np.bool_]:
    """(N,) whether qualities are good: by their word, by OPC's number, or where none is said."""
    return np.array([_is_good(cell) for cell in cells], bool)


def _is_good(cell: object) -> bool:
    word = "" if cell is None else str(cell).strip().lower()
    if word in GOOD or word in ("", "nan"):
        return True
    try:
        return 192 <= number(word) <= 255
    except ValueError:
        return False


def _reversed(one: Piece) -> Piece:
    """A stream's readings from the last to the first."""
    places = None if one.places is None else one.places[::-1]
    return Piece(one.stream, one.channels, one.times_us[::-1], one.values[::-1], places)
