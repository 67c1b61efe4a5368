"""Times of recordings: how a column writes them, found out from all its cells, and Unix microseconds of each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.values import LATEST_S, number

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

_CLOCK = r"(?P<hour>\d{1,2})[:.h](?P<minute>\d{2})(?:[:.](?P<second>\d{2})(?:[.,](?P<part>\d{1,9}))?)?"
_CLOCK += r"\s*(?P<half>[AaPp]\.?[Mm]\.?)?"
_ZONE = r"\s*(?P<zone>Z|UTC|GMT|CES?T|MES?Z|[+-]\d{2}(?::?\d{2})?(?:\s+[A-Z]{2,5}|\s+[+-]\d{4})?)?"
_DATE = re.compile(
    r"(?:[A-Za-z]{2,9},?\s+(?=\d))?(?P<a>\d{1,4})(?P<by>[-/. ])\s?"
    r"(?P<b>\d{1,2}|[^\W\d_]{3,9}\.?)(?:(?P=by)|\s)\s?(?P<c>\d{1,4})"
    rf"(?:[T ,;_]+{_CLOCK}{_ZONE})?"
)
_NAMED_MONTH = re.compile(
    rf"(?:[A-Za-z]{{2,9}},?\s+)?(?P<b>[A-Za-z]{{3,9}})\.? (?P<a>\d{{1,2}}),? (?P<c>\d{{4}})(?:[T ,]+{_CLOCK}{_ZONE})?"
)
_COMPACT = re.compile(
    r"(?P<c>\d{4})(?P<b>\d\d)(?P<a>\d\d)(?:[T _-]?(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)?)?Z?"
)
_TIME = re.compile(_CLOCK + _ZONE)
_ZONES = {"Z": 0, "UTC": 0, "GMT": 0, "CET": 60, "MEZ": 60, "CEST": 120, "MESZ": 120}
_MONTHS = {
    name: month
    for month, names in enumerate(
        (
            "jan januar january janvier ene enero jän", "feb februar february fev fevrier février febrero fév",
            "mar mär märz march mars marzo mrz", "apr april avril abr abril avr", "may mai mayo maj",
            "jun juni june juin junio", "jul juli july juillet julio", "aug august août aout ago agosto",
            "sep sept september septembre septiembre", "oct okt october oktober octobre octubre",
            "nov november novembre noviembre", "dec dez december dezember décembre dic diciembre déc",
        ),
        start=1,
    )
    for name in names.split()
}  # fmt: skip


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


def is_clock(cell: object) -> bool:
    """Whether a cell is a time of day without a date."""
    return isinstance(cell, str) and bool(_TIME.fullmatch(cell.strip()))


def is_date(cell: object) -> bool:
    """Whether a cell is a date, with or without a time of day, that is no bare number."""
    if isinstance(cell, datetime):
        return True
    if not isinstance(cell, str) or not any(map(str.isdigit, cell)):
        return False
    text = cell.strip()
    return bool(_DATE.fullmatch(text) or _NAMED_MONTH.fullmatch(text)) or (
        not text.isdigit() and _iso(text) is not None
    )


def is_date_alone(cell: object) -> bool:
    """Whether a cell is a date without a time of day."""
    if not isinstance(cell, str):
        return False
    found = _DATE.fullmatch(cell.strip()) or _COMPACT.fullmatch(cell.strip())
    return found is not None and found["hour"] is None


def _iso(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


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
    numbers = [_as_number(text) for text in texts]
    known = [one for one in numbers if one is not None]
    if texts and 2 * len(known) > len(texts):
        return TimeStyle(_kind_of_numbers([str(text) for text in texts], known, where))
    if all(not isinstance(text, str) or _iso(text) is not None for text in texts):
        return TimeStyle()
    found = [match for text in texts if isinstance(text, str) and (match := _DATE.fullmatch(text))]
    if not found or any(len(match["a"]) >= 4 for match in found) or any(not match["b"].isdigit() for match in found):
        short = [match for match in found if len(match["a"]) < 4 and match["b"].isdigit()]
        if 2 * len(short) <= len(found):
            iso = sum(not isinstance(text, str) or _iso(text) is not None for text in texts)
            return TimeStyle() if 2 * iso > len(texts) else TimeStyle("date", "ymd" if found else "dmy")
    for match in found:  # some of them may tell
        one, two = int(match["a"]), int(match["b"])
        if len(match["c"]) == 4 and max(one, two) > 12:
            return TimeStyle("date", "dmy" if one > 12 else "mdy")
    return TimeStyle("date", _order_of(everything, where))


def _as_number(text: object) -> float | None:
    if isinstance(text, datetime | bool):
        return None
    try:
        return number(text)
    except (TypeError, ValueError):
        return None


def _kind_of_numbers(texts: list[str], numbers: list[float], where: str) -> str:
    finite = [one for one in numbers if math.isfinite(one)]
    size = float(np.median(np.abs(finite))) if finite else 0.0
    if all(_COMPACT.fullmatch(text) and _compact(text) is not None for text in texts):
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
    """`dmy`, `mdy` or `ymd` of dates in numbers: by a day above 12, or else by the steps between readings.

    Raises:
        RecordingError: both are possible for all cells, and neither leaps.
    """
    most = [0, 0]
    dates: list[tuple[str, str, str, str]] = []
    for cell in cells:
        match = _DATE.fullmatch(cell.strip())
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
    steps = {order: _odd_steps([_date(cell, order) for *_, cell in dates]) for order in ("dmy", "mdy")}
    for order, other in (("dmy", "mdy"), ("mdy", "dmy")):
        if steps[order] == 0 and steps[other] > 1:
            return order
    if all(one[0] == one[1] for one in dates):  # 03.03.2024 is one and the same
        return "dmy"
    first = next(cell for *_, cell in dates)
    readings = [f"{one:%d %B %Y} with --time-format {name}" for name in ("day-first", "month-first")
                if (one := _date(first, ORDERS[name]))]  # fmt: skip
    raise RecordingError(f"{where}: {first!r:.40} may be {' or '.join(readings)}; no date of the file tells; say which")


def _odd_steps(times: Sequence[datetime | None]) -> int:
    known = [one.timestamp() for one in times if one is not None]
    steps = np.diff(np.array(known)) * 1e6
    forward = steps if not len(steps) or np.median(steps) >= 0 else -steps
    return int(((forward < 0) | (forward > JUMP_US)).sum())


def _date(text: str, order: str) -> datetime | None:
    """A date in the order given, naive or with the zone that it names; None where it is none."""
    match = _DATE.fullmatch(text)
    if match is not None:
        parts = dict(zip(order, (match["a"], match["b"], match["c"]), strict=True))
        if not match["b"].isdigit():
            parts = {"d": match["a"], "m": match["b"], "y": match["c"]}
            if len(match["a"]) == 4:
                parts["d"], parts["y"] = parts["y"], parts["d"]
    else:
        match = _NAMED_MONTH.fullmatch(text)
        if match is None:
            return None
        parts = {"d": match["a"], "m": match["b"], "y": match["c"]}
    month = int(parts["m"]) if parts["m"].isdigit() else _MONTHS.get(parts["m"].lower().rstrip("."), 0)
    year = int(parts["y"])
    if len(parts["y"]) <= 2:
        year += 2000 if year < 70 else 1900
    return _moment(year, month, int(parts["d"]), match)


def _moment(year: int, month: int, day: int, match: re.Match[str]) -> datetime | None:
    hour, minute, second = (int(match[name] or 0) for name in ("hour", "minute", "second"))
    groups = match.groupdict()
    if half := groups.get("half"):
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half[0] in "pP" else 0)
    late = hour == 24 and minute == second == 0
    micros = int((groups.get("part") or "0").ljust(6, "0")[:6])
    try:
        moment = datetime(year, month, day, 0 if late else hour, minute, second, micros)
    except ValueError:
        return None
    if late:
        moment += timedelta(days=1)
    zone = groups.get("zone")
    return moment if not zone else moment.replace(tzinfo=_offset(zone))


def _offset(zone: str) -> tzinfo:
    name = zone.split()[0]
    if name in _ZONES:
        return timezone(timedelta(minutes=_ZONES[name]))
    sign, digits = name[0], name[1:].replace(":", "").ljust(4, "0")
    minutes = 60 * int(digits[:2]) + int(digits[2:])
    return timezone(timedelta(minutes=-minutes if sign == "-" else minutes)) if minutes < 1440 else UTC


def _compact(text: str) -> datetime | None:
    match = _COMPACT.fullmatch(text)
    if match is None or not 1900 <= int(match["c"]) <= 2200:
        return None
    found = _moment(int(match["c"]), int(match["b"]), int(match["a"]), match)
    return found if found is None or not text.endswith("Z") else found.replace(tzinfo=UTC)


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
            days = _as_number(cell)
            if days is None or not math.isfinite(days):
                return None
            seconds = (days - EXCEL_DAYS) * 86_400
            seconds = round(seconds) if abs(seconds - round(seconds)) < EXCEL_ROUNDING_S else round(seconds, 3)
            return self._unix(datetime(1970, 1, 1) + timedelta(seconds=seconds)) if 0 <= seconds < 9e9 else -1
        found = _micros_of(cell, self._style.kind)
        if found is None and isinstance(cell, str) and (moment := _iso(cell.strip())) is not None:
            return self._unix(moment)
        return found

    def _of_text(self, text: str) -> datetime | None:
        style = self._style
        try:
            if style.kind == "format":
                return datetime.strptime(text, style.format)
            if style.kind == "compact":
                return _compact(text)
            return (_iso(text) if style.kind == "iso" or text[:4].isdigit() else None) or _date(text, style.order)
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


def with_zone(style: TimeStyle, zone: str | None) -> TimeStyle:
    """The style with a zone for times that name none."""
    return style if zone is None else replace(style, zone=zone_of(zone))
