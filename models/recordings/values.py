"""Cells of recordings: text, numbers and times to Unix microseconds and values; and what is neither."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np

from gatewatch.models.errors import RecordingError

MISSING = frozenset({"", "nan", "null", "none", "na", "n/a"})
BOOLEANS = {"true": 1.0, "false": 0.0}
LARGEST = float(np.finfo(np.float32).max)

LATEST_S = 1e11
"""In the year 5138; a larger number is in milliseconds, and what is not before it can be written as a date."""


def value(cell: object, where: str, column: str) -> float:
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING):
        return math.nan
    if isinstance(cell, str) and (boolean := BOOLEANS.get(cell.strip().lower())) is not None:
        return boolean
    try:
        found = _number(cell)
    except (TypeError, ValueError):
        raise RecordingError(f"{where}, column {column}: {cell!r:.80} is not a number") from None
    if abs(found) > LARGEST:
        raise RecordingError(f"{where}, column {column}: {cell!r:.80} is larger than a float32 can hold (3.4e38)")
    return found


def _number(cell: object) -> float:
    """Raises TypeError or ValueError for what is no number, also for what only Python takes for one: 1_000, １."""
    if isinstance(cell, str) and ("_" in cell or not cell.isascii()):
        raise ValueError
    return float(cell)  # type: ignore[arg-type]


def time_us(cell: object, where: str, column: str = "timestamp") -> int:
    """Unix microseconds of an RFC 3339 time or of Unix seconds. Raises RecordingError for anything else."""
    seconds = _seconds(cell)
    if seconds is None:
        raise RecordingError(f"{where}, column {column}: {cell!r:.80} is not a time; expected RFC 3339 or Unix seconds")
    if not 0 <= seconds < LATEST_S:
        raise RecordingError(
            f"{where}, column {column}: {cell!r:.80} is not a time between 1970 and 5138; expected RFC 3339 or Unix "
            "seconds"
        )
    return round(seconds * 1_000_000)


def _seconds(cell: object) -> float | None:
    """Unix seconds of a number, a date and time, or the text of either; None for anything else."""
    try:
        if isinstance(cell, datetime):
            return _unix_s(cell)
        return _number(cell)
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        return _unix_s(datetime.fromisoformat(str(cell).strip()))
    except (ValueError, OverflowError):
        return None


def _unix_s(moment: datetime) -> float:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()
