"""Spreadsheets as blocks of rows."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.files import FREE_BYTES, MOST_RATIO, open_regular
from gatewatch.models.recordings.tables import CellBlock, block_rows
from gatewatch.models.text import one_line

MOST_SHEET_BYTES = 2**30
"""Of a spreadsheet's XML, which the library holds in memory as cells."""


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
