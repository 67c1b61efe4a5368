"""CSV, Parquet and spreadsheets as blocks of rows: their cells, and arrays of them where nothing is unusual.

Where polars is installed, it parses CSV, too: three times as fast, and the same numbers. What it is not asked to
understand (quotes, rows of other lengths than the header) is read cell by cell.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.files import FREE_BYTES, LONGEST_ROW, MOST_RATIO, Rows, lines_of, open_regular
from gatewatch.models.recordings.layout import Layout
from gatewatch.models.recordings.values import LATEST_S
from gatewatch.models.text import counted, one_line

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

FOOT_ROWS, ROWS_BEFORE_FOOT = 5, 10
"""So many rows at the end that are no readings may be a foot, or the half of one; behind so many that are."""

SAMPLE_ROWS = 600

MOST_SHEET_BYTES = 2**30
"""Of a spreadsheet's XML, which the library holds in memory as cells."""


def block_rows(columns: int) -> int:
    """So many rows may be in memory at once."""
    return max(1, BLOCK_CELLS // columns)


class Block(Protocol):
    """Some rows of a table."""

    def rows(self) -> Iterable[Sequence[object]]:
        """Row by row."""

    def column(self, at: int) -> Sequence[object]:
        """The cells of one column."""

    def times_us(self, at: int) -> NDArray[np.int64] | None:
        """(N,) Unix microseconds of RFC 3339 in whole seconds or Unix seconds; None of anything else."""

    def numbers(self, columns: Sequence[int], decimal: str) -> NDArray[np.float64]:
        """(N, C) the cells of some columns, missing ones as NaN; ValueError where a cell needs a closer look."""


@dataclass(frozen=True)
class CellBlock:
    """Rows of cells, as the csv module or a spreadsheet gives them."""

    cells: Sequence[Sequence[object]]

    def rows(self) -> Iterable[Sequence[object]]:
        """See Block."""
        return self.cells

    def column(self, at: int) -> Sequence[object]:
        """See Block."""
        return [row[at] for row in self.cells]

    def times_us(self, at: int) -> NDArray[np.int64] | None:  # noqa: ARG002 - a protocol
        """See Block."""
        return None

    def numbers(self, columns: Sequence[int], decimal: str) -> NDArray[np.float64]:
        """See Block."""
        cells = [row[at] or "nan" for row in self.cells for at in columns]
        if not all(isinstance(cell, str) for cell in cells):
            raise ValueError
        texts: list[str] = cells  # type: ignore[assignment]
        joined = "".join(texts)
        if "_" in joined or not joined.isascii():
            raise ValueError
        if decimal == ",":
            if "." in joined:
                raise ValueError
            texts = [text.replace(",", ".") for text in texts]
        return np.fromiter(map(float, texts), np.float64, len(texts)).reshape(-1, len(columns))


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

    def times_us(self, at: int) -> NDArray[np.int64] | None:  # noqa: ARG002 - a protocol
        """See Block."""
        return None

    def numbers(self, columns: Sequence[int], decimal: str) -> NDArray[np.float64]:  # noqa: ARG002 - a protocol
        """See Block."""
        picked = [self.frame.to_series(at) for at in columns]
        if not all(series.dtype.is_float() or series.dtype.is_integer() for series in picked):
            raise ValueError
        return np.stack([series.to_numpy().astype(np.float64) for series in picked], axis=1)


@dataclass(frozen=True)
class ParsedBlock(FrameBlock):
    """Rows of text, as polars parses them: all columns text but those of numbers; and the text itself."""

    text: str
    delimiter: str

    def rows(self) -> Iterable[Sequence[object]]:
        """See Block: as they stand in the file."""
        return csv.reader(io.StringIO(self.text, newline=""), delimiter=self.delimiter)

    def times_us(self, at: int) -> NDArray[np.int64] | None:
        """See Block."""
        import polars

        cells = self.frame.to_series(at)
        if cells.str.contains(WHOLE_SECONDS).all():
            parsed = cells.str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", strict=False)
            seconds = parsed.dt.timestamp("us").cast(polars.Float64) / 1_000_000
        else:
            seconds = cells.cast(polars.Float64, strict=False)
        if not seconds.is_between(0, LATEST_S, closed="left").fill_null(value=False).all():
            return None
        microseconds: NDArray[np.int64] = np.rint(seconds.to_numpy() * 1_000_000).astype(np.int64)
        return microseconds


@dataclass
class Skipped:
    """Lines of a text that are no readings and were left out."""

    headers: int = 0
    foot: list[str] = field(default_factory=list)

    def remarks(self) -> list[str]:
        """For people."""
        found = [f"{counted(self.headers, 'repeated header')} left out"] if self.headers else []
        if self.foot:
            found.append(f"left out at the end, no readings: {'; '.join(map(repr, self.foot))}")
        return found


def csv_blocks(path: Path, file: TextIO, layout: Layout, skipped: Skipped) -> Iterator[Block]:
    """The rows of a text behind its header. Raises RecordingError: rows of other lengths than the header."""
    for _ in range(layout.lines):
        file.readline(LONGEST_ROW + 1)
    lines = layout.lines
    while text := file.read(round(CELL_CHARACTERS * BLOCK_CELLS)):
        text = (text + file.readline(LONGEST_ROW + 1)).replace("\r\n", "\n")
        parsed = _parsed(text, layout)
        if parsed is None:
            found = chain(io.StringIO(text, newline=""), lines_of(file))
            rest = Rows(path, found, lines, delimiter=layout.delimiter)
            yield from _text_blocks(path, rest, layout, skipped)
            return
        yield parsed
        lines += parsed.frame.height


def _parsed(text: str, layout: Layout) -> ParsedBlock | None:
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
    commas = np.diff(np.flatnonzero(marks == ord(layout.delimiter)).searchsorted(ends), prepend=0)
    numbers = {column.at for column in layout.channels}
    odd = '"' in text or "\r" in text or "\0" in text or "#" in text
    lengths = np.diff(ends, prepend=-1) - 1
    odd = odd or bool((lengths == len(layout.names) - 1).any())  # rows of nothing
    if odd or lengths.max() >= LONGEST_ROW or (commas != len(layout.names) - 1).any():
        return None
    kinds = [polars.Float64 if at in numbers else polars.String for at in range(len(layout.names))]
    try:
        frame = polars.read_csv(
            encoded, has_header=False, schema={str(at): kind for at, kind in enumerate(kinds)},
            separator=layout.delimiter, decimal_comma=layout.style.decimal == ",",
        )  # fmt: skip
    except polars.exceptions.PolarsError:
        return None
    return ParsedBlock(frame.with_columns(polars.col(polars.String).fill_null("")), text, layout.delimiter)


def _text_blocks(path: Path, rows: Rows, layout: Layout, skipped: Skipped) -> Iterator[CellBlock]:
    columns = len(layout.names)
    cells: list[list[str]] = []
    foot: list[tuple[int, list[str]]] = []
    characters = found = 0
    order: list[int] | None = None
    for row in rows:
        if not any(cell.strip() for cell in row) or _is_comment(row, layout):
            continue
        if _is_header(row, layout):
            skipped.headers += 1
            order = _order_of(path, rows.line, row, layout)
            continue
        if order is not None:
            row = [row[at] if 0 <= at < len(row) else "" for at in order]
        elif len(row) > columns and not any(cell.strip() for cell in row[columns:]):
            del row[columns:]
        if len(row) != columns:
            foot.append((rows.line, row))
        else:
            cells.append(row)
            found += 1
            characters += sum(map(len, row))
        if foot and (len(row) == columns or len(foot) > FOOT_ROWS or found < ROWS_BEFORE_FOOT):
            line, first = foot[0]
            raise RecordingError(f"{path}, line {line}: {len(first)} cells; the header has {columns}")
        if len(cells) >= block_rows(columns) or characters > CELL_CHARACTERS * BLOCK_CELLS:
            yield CellBlock(cells)
            cells, characters = [], 0
    if cells:
        yield CellBlock(cells)
    skipped.foot += [layout.delimiter.join(row)[:60] for _, row in foot]


def _is_comment(row: Sequence[str], layout: Layout) -> bool:
    return row[0].startswith("#") and (len(row) != len(layout.names) or layout.annotated or 0 in layout.time_at)


def _is_header(row: Sequence[str], layout: Layout) -> bool:
    names = [cell.strip() for cell in row]
    if layout.annotated and names[1:3] == ["result", "table"]:
        return True
    return names[-1] == layout.names[-1] and names == list(layout.names)


def _order_of(path: Path, line: int, row: Sequence[str], layout: Layout) -> list[int] | None:
    """Where the columns of the first header stand in a further one, -1 for nowhere; None where it is the same."""
    names = [cell.strip() for cell in row]
    if names == list(layout.names):
        return None
    needed = [layout.names[at] for at in (*layout.time_at, *(column.at for column in layout.channels))]
    absent = [name for name in needed if name not in names]
    if absent:
        raise RecordingError(f"{path}, line {line}: a further table without the column {absent[0]}; export it alone")
    return [names.index(name) if name in names else -1 for name in layout.names]


def sheet_rows(path: Path) -> tuple[str, Iterator[list[object]]]:
    """The name of the first sheet with a table in a spreadsheet, and its rows.

    Raises:
        RecordingError: it cannot be read, or python-calamine is missing.
    """
    try:
        import python_calamine
    except ImportError as error:
        raise RecordingError(f"{path}: reading Excel needs python-calamine; pip install 'gatewatch[excel]'") from error
    _check_sheets(path)
    try:
        book = python_calamine.CalamineWorkbook.from_path(path)
        for name in book.sheet_names:
            sheet = book.get_sheet_by_name(name)
            if sheet.height > 1 and sheet.width > 1:
                return name, ([None if cell == "" else cell for cell in row] for row in sheet.iter_rows())
    except (python_calamine.CalamineError, OSError) as error:
        raise RecordingError(f"{path}: not a readable spreadsheet: {one_line(str(error))}") from error
    raise RecordingError(f"{path}: no sheet with a table in it")


def _check_sheets(path: Path) -> None:
    """Refuse what is no regular file, or what says that it becomes far more than its size when unpacked."""
    open_regular(path).close()
    try:
        with zipfile.ZipFile(path) as parts:
            unpacked = sum(part.file_size for part in parts.infolist())
    except zipfile.BadZipFile:
        return  # an .xls, which is not packed, or what the library refuses
    if unpacked > FREE_BYTES and unpacked > MOST_RATIO * path.stat().st_size:
        raise RecordingError(f"{path}: becomes more than {MOST_RATIO} times its size when unpacked; expected readings")
    if unpacked > MOST_SHEET_BYTES:
        raise RecordingError(
            f"{path}: {unpacked} bytes when unpacked; at most {MOST_SHEET_BYTES} are read: save it as CSV"
        )


def blocks_of(rows: Iterable[Sequence[object]], columns: int) -> Iterator[CellBlock]:
    """Rows of a spreadsheet as blocks; empty ones are left out."""
    filled = (row for row in rows if any(cell is not None for cell in row))
    while cells := list(islice(filled, block_rows(columns))):
        yield CellBlock(cells)


def parquet_table(path: Path, most_values: int) -> tuple[list[str], list[list[object]], Iterator[Block]]:
    """The names of the columns of a Parquet file, some rows, and blocks of all.

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

    first = next(blocks(), None)
    sample = [] if first is None else [list(row) for row in islice(first.rows(), SAMPLE_ROWS)]
    return [name.strip() for name in header], sample, blocks()


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
