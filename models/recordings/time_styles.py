"""How a column writes its times, found out from all its cells."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.dates import COMPACT, DATE, compact_moment, date_in_order, iso_moment
from gatewatch.models.recordings.values import number

EPOCHS = {"s": 1_000_000, "ms": 1000, "us": 1, "ns": 1}
"""Units of Unix times, and the microseconds of one (of ns: a thousandth)."""

ORDERS = {"year-first": "ymd", "day-first": "dmy", "month-first": "mdy"}
EXCEL_DAYS = 25569
"""Days from the zero of a spreadsheet's dates to 1970."""

EXCEL_ROUNDING_S = 0.06
"""Six decimals of a day are 0.09 s: so near a whole second, it is one."""

SERIALS = (29_221.0, 73_050.0)
"""Spreadsheet days of 1980 and 2099: numbers between them, with parts of days, are taken for such dates."""

HOUR_US = 3_600_000_000
JUMP_US = 27 * 24 * HOUR_US
"""A step that long, or one back, is odd between readings; two of them refute a reading of day and month."""


@dataclass(frozen=True)
class TimeStyle:
    """How a column, or two, write times.

    Attributes:
        kind: `iso`, a unit of EPOCHS, `excel`, `date` (numbers or names of months with signs between), `compact`, or
            `format`.
        order: of `date`: `ymd`, `dmy` or `mdy`.
        zone: of times that name none.
        format: of `format`, as strptime takes it.
        newest_first: the times fall from row to row.
    """

    kind: str = "iso"
    order: str = "ymd"
    zone: tzinfo = UTC
    format: str = ""
    newest_first: bool = False

    def words(self) -> str:
        """For people."""
        kinds = {
            "iso": "RFC 3339", "excel": "days of a spreadsheet", "compact": "YYYYMMDD", "format": self.format,
            "s": "Unix seconds", "ms": "Unix milliseconds", "us": "Unix microseconds", "ns": "Unix nanoseconds",
        }  # fmt: skip
        orders = {order: name for name, order in ORDERS.items()}
        return kinds.get(self.kind) or f"{orders[self.order].replace('-', ' ')}"


def zone_of(name: str) -> tzinfo:
    """A zone by its name, as Europe/Berlin, or its distance from UTC, as +01:00. Raises RecordingError."""
    if found := re.fullmatch(r"([+-])(\d{2}):?(\d{2})", name):
        minutes = 60 * int(found[2]) + int(found[3])
        return timezone(timedelta(minutes=-minutes if found[1] == "-" else minutes))
    try:
        return UTC if name.upper() in ("UTC", "Z") else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise RecordingError(f"--timezone {name!r:.80}: expected a name as Europe/Berlin, or +01:00") from error


def with_zone(style: TimeStyle, zone: str | None) -> TimeStyle:
    """The style with a zone for times that name none."""
    return style if zone is None else replace(style, zone=zone_of(zone))


def find_style(cells: Sequence[object], everything: Iterable[str], where: str) -> TimeStyle:
    """How these cells write times; the day may stand before the month or behind it, told by all cells of the column.

    Args:
        cells: some, from several places of the file.
        everything: all cells of the column, read as far as needed.
        where: of the column, for messages.

    Raises:
        RecordingError: day and month cannot be told apart, or times are rounded.
    """
    texts = [cell.strip() if isinstance(cell, str) else cell for cell in cells if cell not in (None, "")]
    numbers = [as_number(text) for text in texts]
    known = [one for one in numbers if one is not None]
    if texts and 2 * len(known) > len(texts):
        return TimeStyle(_kind_of_numbers([str(text) for text in texts], known, where))
    if all(not isinstance(text, str) or iso_moment(text) is not None for text in texts):
        return TimeStyle()
    found = [match for text in texts if isinstance(text, str) and (match := DATE.fullmatch(text))]
    if not found or any(len(match["a"]) >= 4 for match in found) or any(not match["b"].isdigit() for match in found):
        short = [match for match in found if len(match["a"]) < 4 and match["b"].isdigit()]
        if 2 * len(short) <= len(found):
            iso = sum(not isinstance(text, str) or iso_moment(text) is not None for text in texts)
            written = "mdy" if not found else "ymd" if len(found[0]["a"]) >= 4 else "dmy"
            return TimeStyle() if 2 * iso > len(texts) else TimeStyle("date", written)
    for match in found:  # some of them may tell
        one, two = int(match["a"]), int(match["b"])
        if len(match["c"]) == 4 and max(one, two) > 12:
            return TimeStyle("date", "dmy" if one > 12 else "mdy")
    return TimeStyle("date", _order_of(everything, where))


def as_number(text: object) -> float | None:
    if isinstance(text, datetime | bool):
        return None
    try:
        return number(text)
    except (TypeError, ValueError):
        return None


def _kind_of_numbers(texts: list[str], numbers: list[float], where: str) -> str:
    finite = [one for one in numbers if math.isfinite(one)]
    size = float(np.median(np.abs(finite))) if finite else 0.0
    if all(COMPACT.fullmatch(text) and compact_moment(text) is not None for text in texts):
        return "compact"
    rounded = [text for text in texts if "e" in text.lower()]
    if len(rounded) > 1 and size > 1e8 and len({*rounded}) < len(rounded) and all(len(text) < 15 for text in rounded):
        raise RecordingError(
            f"{where}: times are rounded ({rounded[0]}), {len(rounded)} cells have {len({*rounded})} times; export "
            "them with all digits"
        )
    low, high = SERIALS
    if all(low <= one <= high for one in finite) and any(one != round(one) for one in finite):
        return "excel"
    return next((unit for unit, most in (("s", 1e11), ("ms", 1e14), ("us", 1e17)) if size < most), "ns")


def _order_of(cells: Iterable[str], where: str) -> str:
    """`dmy`, `mdy` or `ymd` of dates in numbers: by a day above 12, else by the steps between readings, else by dots.

    Nobody writes the month first with dots.

    Raises:
        RecordingError: both are possible for all cells, and neither leaps.
    """
    most = [0, 0]
    dates: list[tuple[str, str, str, str]] = []
    for cell in cells:
        match = DATE.fullmatch(cell.strip())
        if match is None or not match["b"].isdigit():
            continue
        day_or_month = int(match["a"]), int(match["b"])
        most = [max(one, other) for one, other in zip(most, day_or_month, strict=True)]
        if most[0] > 31 or (most[0] > 12 and most[1] > 12):
            return "ymd"
        if max(most) > 12 and len(match["c"]) == 4:
            return "dmy" if most[0] > 12 else "mdy"
        known = match["a"], match["b"], match["c"], cell.strip()
        if not dates or dates[-1][:3] != known[:3]:
            dates.append(known)
    if max(most) > 12:
        years, days = {one[0] for one in dates}, {one[2] for one in dates}
        return "ymd" if len(years) == 1 < len(days) else "dmy" if most[0] > 12 else "mdy"
    steps = {order: _odd_steps([date_in_order(cell, order) for *_, cell in dates]) for order in ("dmy", "mdy")}
    for order, other in (("dmy", "mdy"), ("mdy", "dmy")):
        if steps[order] == 0 and steps[other] > 1:
            return order
    dotted = all(cell[: len(day) + len(month) + 2].count(".") == 2 for day, month, _, cell in dates)
    if dotted or all(one[0] == one[1] for one in dates):  # 03/03/2024 is one and the same
        return "dmy"
    first = next(cell for *_, cell in dates)
    readings = [f"{one:%d %B %Y} with --time-format {name}" for name in ("day-first", "month-first")
                if (one := date_in_order(first, ORDERS[name]))]  # fmt: skip
    raise RecordingError(f"{where}: {first!r:.40} may be {' or '.join(readings)}; no date of the file tells; say which")


def _odd_steps(times: Sequence[datetime | None]) -> int:
    known = [one.timestamp() for one in times if one is not None]
    steps = np.diff(np.array(known)) * 1e6
    forward = steps if not len(steps) or np.median(steps) >= 0 else -steps
    return int(((forward < 0) | (forward > JUMP_US)).sum())
