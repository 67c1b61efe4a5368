"""Readings of a table: a pandas or polars frame, row by row, without needing either."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .readings import Reading


def readings_of(
    frame: Any,
    *,
    stream: str | None = None,
    stream_column: str | None = None,
    time_column: str = "timestamp",
    channels: Sequence[str] | None = None,
) -> Iterator[Reading]:
    """The rows of a frame as readings, made as they are asked for.

    Args:
        frame: a pandas or polars DataFrame, or any iterable of mappings.
        stream: whose readings all rows are, or
        stream_column: where each row names its stream.
        time_column: with times that have a zone, or Unix seconds.
        channels: the columns that are channels; without them all others.

    Raises:
        ValueError: neither or both of `stream` and `stream_column` are given.
        KeyError: a column is not there.
    """
    if (stream is None) == (stream_column is None):
        raise ValueError("expected either stream or stream_column")
    for row in _rows(frame):
        names = channels or [name for name in row if name not in (time_column, stream_column)]
        values = {name: row[name] for name in names}
        yield Reading.of(str(row[stream_column]) if stream_column else str(stream), values, row[time_column])


def _rows(frame: Any) -> Iterator[Mapping[str, Any]]:
    if hasattr(frame, "iter_rows"):  # polars
        yield from frame.iter_rows(named=True)
    elif hasattr(frame, "itertuples"):  # pandas
        columns = [str(name) for name in frame.columns]
        for row in frame.itertuples(index=False, name=None):
            yield dict(zip(columns, row, strict=True))
    else:
        yield from frame
