"""CSV, Parquet and spreadsheets as blocks of rows: their cells, and arrays of them where nothing is unusual.

Where polars is installed, it parses CSV, too: three times as fast, and the same numbers. What it is not asked to
understand (quotes, rows of other lengths than the header) is read cell by cell.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.files import LONGEST_ROW, Rows, lines_of
from gatewatch.models.recordings.layout import Layout
from gatewatch.models.recordings.values import LATEST_S
from gatewatch.models.text import counted

if TYPE_CHECKING:
    import polars

BLOCK_CELLS = 2**18
"""Read and worked on at once: some 20 MB as text."""

CELL_CHARACTERS = 8
"""Of a cell and its comma, about."""

WHOLE_SECONDS = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:[0-5]\dZ$"
"""The times that are parsed together; others one by one."""

FOOT_ROWS, ROWS_BEFORE_FOOT = 5, 10
"""So many rows at the end that are no readings may be a foot, or the half of one; behind so many that are."""

SAMPLE_ROWS = 600
"""Of a file, that its form is told from."""


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
