"""Texts to moments: dates in numbers and names of months, times of day, zones."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo

_CLOCK = r"(?P<hour>\d{1,2})[:.h](?P<minute>\d{2})(?:[:.](?P<second>\d{2})(?:[.,](?P<part>\d{1,9}))?)?"
_CLOCK += r"\s*(?P<half>[AaPp]\.?[Mm]\.?)?"
_ZONE = r"\s*(?P<zone>Z|UTC|GMT|CES?T|MES?Z|[+-]\d{2}(?::?\d{2})?(?:\s+[A-Z]{2,5}|\s+[+-]\d{4})?)?"
DATE = re.compile(
    r"(?:[A-Za-z]{2,9},?\s+(?=\d))?(?P<a>\d{1,4})(?P<by>[-/. ])\s?"
    r"(?P<b>\d{1,2}|[^\W\d_]{3,9}\.?)(?:(?P=by)|\s)\s?(?P<c>\d{1,4})"
    rf"(?:[T ,;_]+{_CLOCK}{_ZONE})?"
)
NAMED_MONTH = re.compile(
    rf"(?:[A-Za-z]{{2,9}},?\s+)?(?P<b>[A-Za-z]{{3,9}})\.? (?P<a>\d{{1,2}}),? (?P<c>\d{{4}})(?:[T ,@]+{_CLOCK}{_ZONE})?"
)
COMPACT = re.compile(r"(?P<c>\d{4})(?P<b>\d\d)(?P<a>\d\d)(?:[T _-]?(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)?)?Z?")
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
    return bool(DATE.fullmatch(text) or NAMED_MONTH.fullmatch(text)) or (
        not text.isdigit() and iso_moment(text) is not None
    )


def is_date_alone(cell: object) -> bool:
    """Whether a cell is a date without a time of day."""
    if not isinstance(cell, str):
        return False
    found = DATE.fullmatch(cell.strip()) or COMPACT.fullmatch(cell.strip())
    return found is not None and found["hour"] is None


def iso_moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def date_in_order(text: str, order: str) -> datetime | None:
    """A date in the order given, naive or with the zone that it names; None where it is none."""
    match = DATE.fullmatch(text)
    if match is not None:
        parts = dict(zip(order, (match["a"], match["b"], match["c"]), strict=True))
        if not match["b"].isdigit():
            parts = {"d": match["a"], "m": match["b"], "y": match["c"]}
            if len(match["a"]) == 4:
                parts["d"], parts["y"] = parts["y"], parts["d"]
    else:
        match = NAMED_MONTH.fullmatch(text)
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


def compact_moment(text: str) -> datetime | None:
    match = COMPACT.fullmatch(text)
    if match is None or not 1900 <= int(match["c"]) <= 2200:
        return None
    found = _moment(int(match["c"]), int(match["b"]), int(match["a"]), match)
    return found if found is None or not text.endswith("Z") else found.replace(tzinfo=UTC)
