"""A file to its `Layout`: text, Parquet or spreadsheet, understood before any of it is read as readings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.columns import layout_of
from gatewatch.models.recordings.files import LONGEST_ROW, SHEETS, Rows, lines_of, open_text
from gatewatch.models.recordings.layout import SIGNS, Layout
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.parquet import parquet_table
from gatewatch.models.recordings.sheets import blocks_of, sheet_rows
from gatewatch.models.recordings.sniffing import Form, header_of, sniff
from gatewatch.models.recordings.tables import SAMPLE_ROWS, Block
from gatewatch.models.recordings.time_styles import TimeStyle
from gatewatch.models.recordings.values import WORDS_FOR_MISSING, CellStyle, decimal_of, looks_like_unit
from gatewatch.models.text import counted, listed

MOST_CHANNELS, LONGEST_NAME = 4096, 256
"""As many as a model can have, and characters of the name of one."""

PROCESSING = frozenset({"avg", "max", "min", "smp", "tot", "std", "ts", "rn", "double", "float", "string", "datetime"})
"""What stands between header and readings, too, and is no unit."""


class Understanding:
    """Finds out how a file is written.

    Attributes:
        blocks: its rows, where they do not come as text.
        expected_rows: how many readings there are, about; 0 if that is not known before the end.
    """

    def __init__(self, path: Path, options: ReadOptions, most_values: int) -> None:
        self.path, self._options, self._most_values = path, options, most_values
        self.blocks: Iterator[Block] = iter(())
        self.expected_rows = 0

    def layout(self) -> Layout:
        path = self.path
        if path.name.endswith(".parquet"):
            names, rows, self.blocks = parquet_table(path, self._most_values)
            self._check_header(names)
            return layout_of(str(path), names, rows, self._options, lambda _: (), _base("Parquet", names))
        if path.name.endswith(SHEETS):
            return self._understood_sheet()
        form = sniff(path, self._options.delimiter)
        self._check_header(form.names)
        self.expected_rows = round(path.stat().st_size / form.row_bytes) if not path.name.endswith(".gz") else 0
        even = [row[: len(form.names)] for row in form.rows if len(row) >= len(form.names)]
        style = self._style(form, even)
        source = form.encoding + (f", cells parted by {SIGNS.get(form.delimiter, form.delimiter)}")
        if style.decimal == ",":
            source += ", decimal comma"
        base = Layout(
            source, tuple(form.names), form.lines, TimeStyle(), (), (), form.delimiter, style, notes=_preamble(form),
            annotated=form.annotated,
        )  # fmt: skip
        found = layout_of(str(path), form.names, even, self._options, self._cells_of(form), base, form.annotated)
        channels = tuple(replace(one, unit=one.unit or _unit_below(form, one.at)) for one in found.channels)
        return replace(found, channels=channels)

    def _understood_sheet(self) -> Layout:
        name, rows = sheet_rows(self.path)
        first = list(islice(rows, SAMPLE_ROWS))
        texts = [(at, ["" if cell is None else str(cell) for cell in row]) for at, row in enumerate(first)]
        filled = [(at, row) for at, row in texts if any(row)]
        (header, cells), start = header_of(self.path, filled, [], ",")
        begin = filled[start][0] if start < len(filled) else header + 1
        names = [name.strip() for name in cells]
        self._check_header(names)
        self.blocks = blocks_of(chain(first[begin:], rows), len(names))
        sample = [row for row in first[begin:] if any(cell is not None for cell in row)]
        base = _base(f"sheet {name}", names, self._style_of(None))
        return layout_of(str(self.path), names, sample, self._options, lambda _: (), base)

    def _style_of(self, decimal: str | None) -> CellStyle:
        words = frozenset(WORDS_FOR_MISSING | self._options.missing_words)
        return CellStyle(decimal or ".", words)

    def _style(self, form: Form, rows: Sequence[Sequence[str]]) -> CellStyle:
        decimal = self._options.decimal or decimal_of(
            [cell for row in rows for cell in row if "," in cell or "." in cell], form.delimiter
        )
        if decimal is None:
            cell = next(
                cell for row in rows for cell in row if "," in cell and decimal_of([cell], form.delimiter) is None
            )
            raise RecordingError(
                f"{self.path}: {cell!r:.40} may be {cell.replace(',', '.')} with --decimal , or "
                f"{cell.replace(',', '')} with --decimal . ; no number of the file tells; say which"
            )
        return self._style_of(decimal)

    def _cells_of(self, form: Form) -> Callable[[Sequence[int]], Iterator[str]]:
        """A way to all cells of some columns of a text."""

        def everything(columns: Sequence[int]) -> Iterator[str]:
            with open_text(self.path) as file:
                for _ in range(form.lines):
                    file.readline(LONGEST_ROW + 1)
                for row in Rows(self.path, lines_of(file), form.lines, delimiter=form.delimiter):
                    if len(row) > max(columns):
                        yield " ".join(row[at] for at in columns)

        return everything

    def _check_header(self, names: Sequence[str]) -> None:
        path = self.path
        if len(names) > MOST_CHANNELS + 2:
            raise RecordingError(
                f"{path}: {len(names)} columns; at most {MOST_CHANNELS} channels are read: "
                "cut it into files of fewer columns"
            )
        for at, name in enumerate(names, start=1):
            if len(name) > LONGEST_NAME:
                raise RecordingError(
                    f"{path}: column {at} has a name of {len(name)} characters, {name[:20]}...; at most {LONGEST_NAME}"
                )


def _base(source: str, names: Sequence[str], style: CellStyle | None = None) -> Layout:
    return Layout(source, tuple(names), 1, TimeStyle(), (), (), style=style or CellStyle())


def _preamble(form: Form) -> tuple[str, ...]:
    said = []
    if form.preamble > 0:
        said.append(f"{counted(form.preamble, 'line')} above the header left out")
    if form.legend:
        said.append(f"{counted(form.legend, 'name')} taken from them")
    if form.second:
        said.append(f"a second header line left out: {listed(form.second[0])}")
    return tuple(said)


def _unit_below(form: Form, at: int) -> str | None:
    """The unit of a column from the lines between header and readings; None where they name none."""
    cells = [row[at].strip() for row in form.second if at < len(row)]
    return next((cell for cell in cells if looks_like_unit(cell) and cell.lower() not in PROCESSING), None)
