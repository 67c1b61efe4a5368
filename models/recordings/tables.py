"""CSV and Parquet files as blocks of rows: their cells, and arrays of them where nothing is unusual.

Where polars is installed, it parses CSV, too: three times as fast, and the same numbers. What it is not asked to
understand (quotes, rows of other lengths than the header) is read cell by cell.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.files import LONGEST_ROW, Rows, lines_of, open_regular
from gatewatch.models.recordings.values import LATEST_S, time_us
from gatewatch.models.text import one_line

if TYPE_CHECKING:
    import polars

BLOCK_CELLS = 2**18
"""Read and worked on at once: some 20 MB as text."""

CELL_CHARACTERS = 8
"""Of a cell and its comma, about."""

LONGEST_CELL = 2**17
"""Characters of a cell; the csv module's limit, too."""

LARGEST_FOOTER = 2**26
"""Bytes of a Parquet file's description of itself: some 120 for each column of each group of rows."""

WHOLE_SECONDS = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:[0-5]\dZ$"
"""The times that are parsed together; others one by one."""


def block_rows(columns: int) -> int:
    """So many rows may be in memory at once."""
    return max(1, BLOCK_CELLS // columns)


class Block(Protocol):
    """Some rows of a table."""

    def rows(self) -> Iterable[Sequence[object]]:
        """Row by row."""

    def column(self, at: int) -> Sequence[object]:
        """The cells of one column."""

    def times_us(self, at: int) -> NDArray[np.int64]:
        """(N,) Unix microseconds of a column; ValueError where a cell needs a closer look."""

    def numbers(self, columns: Sequence[int]) -> NDArray[np.float64]:
        """(N, C) the cells of some columns, missing ones as NaN; ValueError where a cell needs a closer look."""


@dataclass(frozen=True)
class TextBlock:
    """Rows of text, as the csv module gives them."""

    cells: list[list[str]]

    def rows(self) -> Iterable[Sequence[object]]:
        """See Block."""
        return self.cells

    def column(self, at: int) -> Sequence[object]:
        """See Block."""
        return [row[at] for row in self.cells]

    def times_us(self, at: int) -> NDArray[np.int64]:
        """See Block."""
        return np.array([time_us(row[at], "") for row in self.cells], np.int64)

    def numbers(self, columns: Sequence[int]) -> NDArray[np.float64]:
        """See Block."""
        cells = [row[at] or "nan" for row in self.cells for at in columns]
        text = "".join(cells)
        if "_" in text or not text.isascii():
            raise ValueError
        return np.fromiter(map(float, cells), np.float64, len(cells)).reshape(-1, len(columns))


@dataclass(frozen=True)
class FrameBlock:
    """Rows of a polars frame."""

    frame: polars.DataFrame

    def rows(self) -> Iterable[Sequence[object]]:
        """See Block."""
        return self.frame.iter_rows()

    def column(self, at: int) -> Sequence[object]:
        """See Block."""
        return self.frame.to_series(at).to_list()

    def times_us(self, at: int) -> NDArray[np.int64]:
        """See Block."""
        return np.array([time_us(cell, "") for cell in self.column(at)], np.int64)

    def numbers(self, columns: Sequence[int]) -> NDArray[np.float64]:
        """See Block."""
        picked = [self.frame.to_series(at) for at in columns]
        if not all(series.dtype.is_float() or series.dtype.is_integer() for series in picked):
            raise ValueError
        return np.stack([series.to_numpy().astype(np.float64) for series in picked], axis=1)


@dataclass(frozen=True)
class ParsedBlock(FrameBlock):
    """Rows of text, as polars parses them: all columns text but those of numbers; and the text itself."""

    text: str

    def rows(self) -> Iterable[Sequence[object]]:
        """See Block: as they stand in the file."""
        return csv.reader(io.StringIO(self.text, newline=""))

    def times_us(self, at: int) -> NDArray[np.int64]:
        """See Block."""
        import polars

        cells = self.frame.to_series(at)
        if cells.str.contains(WHOLE_SECONDS).all():
            parsed = cells.str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", strict=False)
            seconds = parsed.dt.timestamp("us").cast(polars.Float64) / 1_000_000
        else:
            seconds = cells.cast(polars.Float64, strict=False)
        if not seconds.is_between(0, LATEST_S, closed="left").fill_null(value=False).all():
            return super().times_us(at)
        microseconds: NDArray[np.int64] = np.rint(seconds.to_numpy() * 1_000_000).astype(np.int64)
        return microseconds


def csv_table(path: Path, file: TextIO) -> tuple[list[str], Iterator[Block]]:
    """The names in the header of a CSV file, and its rows. Raises RecordingError: no header; rows of other lengths."""
    rows = Rows(path, lines_of(file))
    header = next(rows, None)
    if not header or not any(cell.strip() for cell in header):
        raise RecordingError(f"{path}: the file is empty; expected a header line with a timestamp column and channels")
    names = [name.strip() for name in header]
    return names, _csv_blocks(path, file, names, rows.line)


def _csv_blocks(path: Path, file: TextIO, names: Sequence[str], lines: int) -> Iterator[Block]:
    """The rows behind the header, which has so many lines."""
    while text := file.read(round(CELL_CHARACTERS * BLOCK_CELLS)):
        text = (text + file.readline(LONGEST_ROW + 1)).replace("\r\n", "\n")
        parsed = _parsed(text, names)
        if parsed is None:
            rest = Rows(path, chain(io.StringIO(text, newline=""), lines_of(file)), lines)
            yield from _text_blocks(path, rest, len(names))
            return
        yield parsed
        lines += parsed.frame.height


def _parsed(text: str, names: Sequence[str]) -> ParsedBlock | None:
    """Whole lines as polars parses them; None without it, or if they are of another form than the header.

    Commas are counted here, for some versions of polars fill up short rows.
    """
    try:
        import polars
    except ImportError:
        return None
    encoded = text.encode()
    marks = np.frombuffer(encoded if text.endswith("\n") else encoded + b"\n", np.uint8)
    ends = np.flatnonzero(marks == ord("\n"))
    commas = np.diff(np.flatnonzero(marks == ord(",")).searchsorted(ends), prepend=0)
    if '"' in text or "\r" in text or np.diff(ends, prepend=-1).max() > LONGEST_ROW or (commas != len(names) - 1).any():
        return None
    kinds = [polars.String if name in ("timestamp", "stream") else polars.Float64 for name in names]
    try:
        frame = polars.read_csv(encoded, has_header=False, schema={str(at): kind for at, kind in enumerate(kinds)})
    except polars.exceptions.PolarsError:
        return None
    return ParsedBlock(frame.with_columns(polars.col(polars.String).fill_null("")), text)


def _text_blocks(path: Path, rows: Rows, columns: int) -> Iterator[TextBlock]:
    cells: list[list[str]] = []
    characters = 0
    for row in rows:
        if not row:
            continue
        if len(row) != columns:
            raise RecordingError(f"{path}, line {rows.line}: {len(row)} cells; the header has {columns}")
        cells.append(row)
        characters += sum(map(len, row))
        if len(cells) >= block_rows(columns) or characters > CELL_CHARACTERS * BLOCK_CELLS:
            yield TextBlock(cells)
            cells, characters = [], 0
    if cells:
        yield TextBlock(cells)


def parquet_table(path: Path, most_values: int) -> tuple[list[str], Iterator[Block]]:
    """The names of the columns of a Parquet file, and its rows.

    Raises:
        RecordingError: it cannot be read, has columns of another kind than numbers, times and text, or holds more
            values than `most_values`: it may unpack them all at once.
    """
    try:
        import polars
    except ImportError as error:
        raise RecordingError(f"{path}: reading Parquet needs polars; pip install 'gatewatch[train]'") from error
    _check_footer(path)
    unreadable = (polars.exceptions.PolarsError, polars.exceptions.PanicException)
    try:
        table = polars.scan_parquet(path, glob=False)
        schema = table.collect_schema()
        rows = int(table.select(polars.len()).collect().item())
    except unreadable as error:
        raise RecordingError(f"{path}: not a readable Parquet file: {one_line(str(error))}") from error
    header = schema.names()
    if rows * len(header) > most_values:
        raise RecordingError(f"{path}: {rows} rows of {len(header)} columns; at most {most_values} values are read")
    odd = [name for name, kind in schema.items() if kind.is_nested() or kind in (polars.Binary, polars.Object)]
    if odd:
        raise RecordingError(f"{path}: column {odd[0]} has {schema[odd[0]]}; expected numbers, times or text")

    def blocks() -> Iterator[Block]:
        try:
            for frame in table.collect_batches(chunk_size=block_rows(len(header)), maintain_order=True):
                for part in frame.iter_slices(block_rows(len(header))):
                    _check_cells(path, part)
                    yield FrameBlock(part)
        except unreadable as error:
            raise RecordingError(f"{path}: not a readable Parquet file: {one_line(str(error))}") from error

    return header, blocks()


def _check_footer(path: Path) -> None:
    """Refuse what is no regular file, or what says that its description of itself is larger than any table's."""
    open_regular(path).close()
    with path.open("rb") as file:
        file.seek(-min(8, path.stat().st_size), io.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
    if length > LARGEST_FOOTER:
        raise RecordingError(f"{path}: not a readable Parquet file: its footer has {length} bytes")


def _check_cells(path: Path, frame: polars.DataFrame) -> None:
    """Refuse text longer than a row may be: a Parquet file stores it once, as a cell it is there each time."""
    import polars

    texts = frame.select(polars.col(polars.String).str.len_bytes().max())
    longest = max((length for length in texts.rows()[0] if length is not None), default=0) if texts.width else 0
    if longest > LONGEST_CELL:
        raise RecordingError(f"{path}: a cell of {longest} characters; at most {LONGEST_CELL} are read")
