"""Parquet files as blocks of rows."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.files import open_regular
from gatewatch.models.recordings.tables import SAMPLE_ROWS, Block, FrameBlock, block_rows
from gatewatch.models.text import one_line

if TYPE_CHECKING:
    import polars

LONGEST_CELL = 2**17
"""Characters of a cell; the csv module's limit, too."""

LARGEST_FOOTER = 2**26
"""Bytes of a Parquet file's description of itself: some 120 for each column of each group of rows."""


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
