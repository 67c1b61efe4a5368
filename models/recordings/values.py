"""Cells of recordings: text and numbers to values, and the words and marks that are none."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gatewatch.models.errors import RecordingError

MISSING = frozenset({"", "nan", "null", "none", "na", "n/a"})
"""What nothing is written as nearly everywhere; numpy and polars know most of it."""

WORDS_FOR_MISSING = frozenset(
    {
        "-", "--", "---", "?", ".", "nil", "<na>", "nat", "n.a.", "n.d.", "k.a.", "#n/a", "#na", "#div/0!", "#value!",
        "#ref!", "#num!", "#null!", "bad", "bad input", "bad value", "bad quality", "no data", "nodata", "missing",
        "unavailable", "unknown", "undefined", "invalid", "error", "err", "fault", "comm fail", "comm failure",
        "i/o timeout", "timeout", "pt created", "calc failed", "shutdown", "scan off", "not connect",
        "no good data for calculation", "[-11059] no good data for calculation", "over range", "under range",
        "out of serv", "offline", "-1.#ind", "1.#qnan",
    }
)  # fmt: skip
"""What loggers, historians and spreadsheets write in place of a value; how often is said."""

BOOLEANS = {"true": 1.0, "false": 0.0}
SWITCHES = (("on", "off"), ("yes", "no"), ("open", "closed"), ("running", "stopped"), ("active", "inactive"))
"""Words for 1 and 0; taken for values only in a column that has both of a pair and nothing else."""

LARGEST = float(np.finfo(np.float32).max)

LATEST_S = 1e11
"""In the year 5138; a larger number is in milliseconds, and what is not before it can be written as a date."""

_GROUPS = re.compile(r"(?<=\d)[\u00a0\u202f' ](?=\d{3})")
_UNIT = re.compile(r"([+-]?[0-9][0-9.,]*(?:[eE][+-]?[0-9]+)?)\s*([%°A-Za-zµμΩ℃℉][^0-9,;]*[23²³]?)")
_BRACKETS = re.compile(r"(?P<open>[\[(])\s*(?P<text>[^\[\]()]*?)\s*[\])]")
_BRACKETS_AT_END = re.compile(r"(?:\s*[\[(][^\[\]()]*[\])])+\s*$")
_NO_UNIT = re.compile(r"[:#]|(?<!\d)(?!10+(?!\d))\d{3}|^[^A-Za-z%°µμΩ℃℉]+$|^([sn]/[na]|i/o)\b", re.IGNORECASE)
"""What no unit has in it: a colon, as in `S/N: 7`, digits as of a serial number, or digits alone."""

LONGEST_UNIT = 16
UNITS = frozenset(
    {
        "m", "mm", "cm", "km", "s", "ms", "us", "min", "h", "d", "kg", "g", "mg", "t", "l", "ml", "bar", "mbar", "pa",
        "hpa", "kpa", "mpa", "psi", "v", "mv", "kv", "a", "ma", "ka", "w", "mw", "kw", "gw", "wh", "kwh", "mwh", "hz",
        "khz", "mhz", "ghz", "rpm", "c", "f", "k", "degc", "degf", "deg", "ppm", "ppb", "ph", "lx", "lux", "db", "n",
        "nm", "j", "kj", "var", "kvar", "va", "kva", "in", "ft", "gal", "gpm", "cfm", "inhg", "mmhg", "ntu", "pct",
        "dl", "mol", "mmol", "hr", "sec", "day", "year", "volts", "amps",
    }
)  # fmt: skip
"""What may stand in round brackets behind a name and is a unit, in lower case; so is what has a sign of one in it."""


def unit_in_header(name: str) -> str | None:
    """The unit in a column's name: in brackets at its end, or behind a comma before them.

    In square brackets anything may be one that looks like it; in round ones, and behind a comma, what is known as one.
    """
    end = _BRACKETS_AT_END.search(name)
    if end is not None:
        for found in reversed(list(_BRACKETS.finditer(end[0]))):
            text = found["text"]
            if looks_like_unit(text) and (found["open"] == "[" or _known_unit(text)):
                return text
    _, comma, last = (name if end is None else name[: end.start()]).rpartition(",")
    text = last.strip()
    named = text.lower() not in ("in", "min")  # a word more often than a unit, as in "Motor, in"
    return text if comma and named and looks_like_unit(text) and _known_unit(text) else None


def looks_like_unit(text: str) -> bool:
    """Whether a text may be a unit, as far as its form goes: no serial number, no index."""
    return 0 < len(text) <= LONGEST_UNIT and _NO_UNIT.search(text) is None


def _known_unit(text: str) -> bool:
    """Whether it is a unit of UNITS, something by one of them, or has a sign in it that only units have."""
    low = text.lower()
    by = re.sub(r"^\d+\s*|[\d²³^-]+$", "", low.rpartition("/")[2]) if "/" in low else ""
    return low in UNITS or by in UNITS or any(sign in text for sign in "°%²³µμΩ℃℉^·")


@dataclass(frozen=True)
class CellStyle:
    """How numbers are written in a file.

    Attributes:
        decimal: between the whole and its parts, `.` or `,`; the other one may part thousands.
        missing: words that stand for a missing value beside MISSING, in lower case.
        seen: how often each of those words was met, filled while a file is read.
    """

    decimal: str = "."
    missing: frozenset[str] = WORDS_FOR_MISSING
    seen: Counter[str] = field(default_factory=Counter, compare=False)


PLAIN = CellStyle()


def value(
    cell: object,
    where: str,
    column: str,
    style: CellStyle = PLAIN,
    unit: str | None = None,
    words: Mapping[str, float] = BOOLEANS,
) -> float:
    """The value of a cell, NaN where it is missing.

    Args:
        unit: what stands behind each number of the column, None for nothing.
        words: for values, in lower case.

    Raises:
        RecordingError: it is no number, or one that float32 cannot hold.
    """
    if cell is None:
        return math.nan
    if isinstance(cell, str):
        word = cell.strip().lower()
        if word in MISSING:
            return math.nan
        if word in style.missing:
            style.seen[cell.strip()] += 1
            return math.nan
        if word in words:
            return words[word]
    try:
        found = number(cell, style.decimal, unit)
    except (TypeError, ValueError):
        raise RecordingError(f"{where}, column {column}: {cell!r:.80} is not a number{_what_to_do(cell)}") from None
    if abs(found) > LARGEST:
        raise RecordingError(f"{where}, column {column}: {cell!r:.80} is larger than a float32 can hold (3.4e38)")
    return found


def _what_to_do(cell: object) -> str:
    if not isinstance(cell, str):
        return ""
    if cell.lstrip().startswith("="):
        return "; it is a formula: export values"
    return f"; --missing {cell.strip()} if it stands for a missing one" if cell.strip().isalpha() else ""


def number(cell: object, decimal: str = ".", unit: str | None = None) -> float:
    """The number that a cell says.

    Raises:
        TypeError, ValueError: it is none; also for what only Python takes for one: 1_000, １.
    """
    if not isinstance(cell, str):
        return float(cell)  # type: ignore[arg-type]
    text = cell
    if unit is not None:
        text = text.strip().removesuffix(unit)
    if decimal == "," or not text.isascii() or "'" in text:
        text = _GROUPS.sub("", text)
    if "," in text or decimal == ",":
        text = _with_a_point(text, decimal)
    if "_" in text or not text.isascii():
        raise ValueError
    return float(text)


def _with_a_point(text: str, decimal: str) -> str:
    """A number with groups of thousands or a decimal comma, as Python writes it; ValueError where neither fits."""
    group = "," if decimal == "." else "."
    whole, _, part = text.partition(decimal)
    groups = whole.split(group)
    if len(groups) > 1 and (any(len(one) != 3 for one in groups[1:]) or not 1 <= len(groups[0].strip(" +-")) <= 3):
        raise ValueError
    if group in part:
        raise ValueError
    return f"{''.join(groups)}.{part}" if part or decimal in text else "".join(groups)


def unit_behind(cell: str) -> str | None:
    """What stands behind a number in a cell, as °C in `21.5 °C`; None where nothing does."""
    found = _UNIT.fullmatch(cell.strip())
    return found[2].strip() if found else None


def decimal_of(cells: list[str], delimiter: str) -> str | None:
    """What parts whole numbers from their parts in these cells: `.` or `,`; None where it could be either."""
    comma, doubtful, point = False, False, False
    for cell in cells:
        text = _GROUPS.sub("", cell.strip().lstrip("+-"))
        if "," not in text:
            point = point or bool(re.fullmatch(r"\d*\.\d+([eE][+-]?\d+)?", text))
        elif re.fullmatch(r"\d{1,3}(,\d{3})+\.\d*|\d{1,3}(,\d{3}){2,}", text):
            return "."
        elif re.fullmatch(r"\d{1,3}(\.\d{3})+,\d*|(0+|\d{4,})?,\d+([eE].*)?|\d+,(\d{1,2}|\d{4,})([eE].*)?", text):
            comma = True
        elif re.fullmatch(r"\d{1,3},\d{3}", text):
            doubtful = True
    if comma:
        return ","
    if doubtful and not point:
        return "," if delimiter == ";" else None
    return "."
