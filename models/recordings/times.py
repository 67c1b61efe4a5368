"""Times of recordings: cells to Unix microseconds, by how their column writes them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.dates import compact_moment, date_in_order, iso_moment
from gatewatch.models.recordings.time_styles import EPOCHS, EXCEL_DAYS, EXCEL_ROUNDING_S, TimeStyle, as_number
from gatewatch.models.recordings.values import LATEST_S, number


class TimeReader:
    """Cells to Unix microseconds, one after the other as they stand in the file.

    In the hour that a clock change repeats, times that step back are of its second pass.
    """

    def __init__(self, style: TimeStyle) -> None:
        self._style = style
        self._before: int | None = None
        self._fixed = style.zone if style.zone == UTC or isinstance(style.zone, timezone) else None

    def read(self, cells: Iterable[object], where: str, first_row: int, column: str) -> NDArray[np.int64]:
        """(N,) Unix microseconds. Raises BadTime for the first cell that is no time between 1970 and 5138."""
        found: list[int] = []
        for cell in cells:
            micros = self._micros(cell)
            if micros is None or not 0 <= micros < LATEST_S * 1_000_000:
                raise BadTime(
                    cell, f"{where}row {first_row + len(found)}", column, self._style, len(found), none=micros is None
                )
            found.append(micros)
        return np.array(found, np.int64)

    def _micros(self, cell: object) -> int | None:
        kind = self._style.kind
        if kind in EPOCHS or kind == "excel":
            return self._of_number(cell)
        if isinstance(cell, datetime):
            moment: datetime | None = cell
        else:
            text = str(cell).strip()
            if (
                kind == "iso"
                and text.count("-") < 2
                and ":" not in text
                and (found := _micros_of(text, "s")) is not None
            ):
                return found  # a number among dates
            moment = self._of_text(text)
        return None if moment is None else self._unix(moment)

    def _of_number(self, cell: object) -> int | None:
        if isinstance(cell, datetime):
            return self._unix(cell)
        if self._style.kind == "excel":
            days = as_number(cell)
            if days is None or not math.isfinite(days):
                return None
            seconds = (days - EXCEL_DAYS) * 86_400
            seconds = round(seconds) if abs(seconds - round(seconds)) < EXCEL_ROUNDING_S else round(seconds, 3)
            return self._unix(datetime(1970, 1, 1) + timedelta(seconds=seconds)) if 0 <= seconds < 9e9 else -1
        found = _micros_of(cell, self._style.kind)
        if found is None and isinstance(cell, str) and (moment := iso_moment(cell.strip())) is not None:
            return self._unix(moment)
        return found

    def _of_text(self, text: str) -> datetime | None:
        style = self._style
        try:
            if style.kind == "format":
                return datetime.strptime(text, style.format)
            if style.kind == "compact":
                return compact_moment(text)
            return (iso_moment(text) if style.kind == "iso" or text[:4].isdigit() else None) or date_in_order(
                text, style.order
            )
        except (ValueError, OverflowError):
            return None

    def _unix(self, moment: datetime) -> int | None:
        try:
            if moment.tzinfo is not None or self._fixed is not None:
                return _since_1970(moment if moment.tzinfo is not None else moment.replace(tzinfo=self._fixed))
            return self._in_zone(moment)
        except OverflowError:
            return -1

    def _in_zone(self, moment: datetime) -> int:
        """Of a moment in a zone whose clocks change."""
        first, second = (_since_1970(moment.replace(tzinfo=self._style.zone, fold=fold)) for fold in (0, 1))
        if second <= first:  # no hour that comes twice; in one that never comes, the clocks of before
            found = first
        elif self._before is None:
            found = second if self._style.newest_first else first
        elif self._style.newest_first:
            found = second if second <= self._before else first
        else:
            found = first if first >= self._before else second
        self._before = found
        return found


class BadTime(RecordingError):
    """A cell that is no time.

    Attributes:
        place: which of the cells it is, from 0.
    """

    def __init__(self, cell: object, where: str, column: str, style: TimeStyle, place: int, *, none: bool) -> None:
        self.place = place
        between = "" if none else " between 1970 and 5138"
        found = f"{where}, column {column}: {cell!r:.80} is not a time{between}; expected RFC 3339 or Unix seconds"
        super().__init__(
            found if style.kind in ("iso", "s") else f"{found}, or as the others of its column: {style.words()}"
        )


def _micros_of(cell: object, unit: str) -> int | None:
    """Microseconds of a number of this unit; None where it is none."""
    text = cell.strip() if isinstance(cell, str) else ""
    if text.isascii() and text.isdigit() and unit != "s":
        whole = int(text)
        return whole // 1000 if unit == "ns" else whole * EPOCHS[unit]
    try:
        found = number(cell)
    except (TypeError, ValueError):
        return None
    if not math.isfinite(found):
        return None if math.isnan(found) else -1
    return round(found * EPOCHS[unit] / (1000 if unit == "ns" else 1)) if abs(found) < 1e25 else -1


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)


def _since_1970(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICRO


def time_us(cell: object, where: str, column: str = "timestamp") -> int:
    """Unix microseconds of an RFC 3339 time or of Unix seconds. Raises RecordingError for anything else."""
    try:
        return int(TimeReader(TimeStyle()).read([cell], "", 0, column)[0])
    except BadTime as error:
        raise RecordingError(str(error).replace("row 0", where, 1)) from None
