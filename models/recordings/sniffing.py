"""The beginning of a text to its form: what parts its cells, which line is the header, where the readings begin."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.dates import is_clock, is_date
from gatewatch.models.recordings.files import (
    CHUNK,
    GZIP,
    LATIN_1,
    LONGEST_ROW,
    Rows,
    encoding_of,
    lines_of,
    open_bytes,
    open_text,
)
from gatewatch.models.recordings.values import MISSING, WORDS_FOR_MISSING

SAMPLE_LINES, SAMPLE_CHARACTERS, SAMPLE_CELLS = 2000, 2**19, 40_000
PLACES = 4
"""Stretches of a large file that are looked at."""

FREE_CONTROLS = 20
"""Control characters that a text may have, however short it is."""

DELIMITERS = (",", ";", "\t", "|")
LOGGERS = ("TOA5", "TOB1", "TOACI1")
"""The first cell of what Campbell loggers write."""

TIME_NAMES = (
    "timestamp", "_time", "datetime", "date_time", "date/time", "date time", "time", "date", "ts", "timestamps",
    "time_stamp", "time stamp", "timestamp_utc", "time_utc", "utc", "utc_time", "datetime_utc", "local_time",
    "last_changed", "last_updated", "start", "zeit", "datum", "zeitstempel", "datum/zeit", "datum_zeit", "uhrzeit",
    "fecha", "hora", "fecha_hora", "horodatage", "heure", "data", "ora", "tijd", "tid", "dato", "when", "t",
)  # fmt: skip
"""What columns of times are called, in lower case, the surest first."""

_NUMBER = re.compile(r"[+-]?(\d[\d.,]*|[.,]\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Form:
    """The form of a text.

    Attributes:
        names: in the header.
        lines: up to the first reading.
        rows: some readings, from several places of a large file.
        second: cells of the lines between header and readings.
        preamble: lines before the header.
        legend: names that were taken from these lines.
        annotated: it is annotated CSV of InfluxDB.
        whole: the rows are all that the file has.
        row_bytes: of a line, about.
    """

    encoding: str
    delimiter: str
    names: list[str]
    lines: int
    rows: list[list[str]]
    second: list[list[str]]
    preamble: int
    legend: int
    annotated: bool
    whole: bool
    row_bytes: float


def plain_name(name: str) -> str:
    """A name of a column in lower case, without unit, quotes and spaces around."""
    return re.sub(r"\s*[\[(].*?[\])]\s*$", "", name.strip().strip("#'\"").strip().lower())


def number_like(cell: str) -> bool:
    """Whether a cell may be a number, with a comma or a point."""
    return bool(_NUMBER.fullmatch(cell.strip()))


def sniff(path: Path, delimiter: str | None) -> Form:
    """The form of a text.

    Raises:
        RecordingError: it is empty, no table, or a row is longer than any.
        OSError, UnicodeDecodeError, EOFError, zlib.error: it cannot be read.
    """
    with open_bytes(path) as file:
        encoding = encoding_of(file.peek(CHUNK)[:CHUNK])[1]
    lines, whole = _first_lines(path)
    if not any(line.strip("\r\n \0\ufeff") for line in lines):
        raise RecordingError(f"{path}: the file is empty; expected a header line with a timestamp column and channels")
    _require_table(path, lines)
    told = next((line[4:5] for line in lines[:3] if line.lower().startswith("sep=")), None)
    delimiter = delimiter or told or _delimiter(lines)
    numbered = _rows(path, lines, delimiter)
    if not numbered:
        raise RecordingError(f"{path}: nothing but comments at its beginning; expected a header line and readings")
    header, first = header_of(path, numbered, lines, delimiter)
    names = [name.strip().lstrip("\ufeff") for name in header[1]]
    if header[1] and header[1][0].lstrip().startswith("#") and not names[0].strip("# ").isdigit():
        names[0] = names[0].lstrip("# ")
    names, legend = _by_legend(names, [row for line, row in numbered if line < header[0]])
    readings = [row for _, row in numbered[first:]]
    wanted = max(20, SAMPLE_CELLS // len(names))
    rows = [row for row in readings if any(cell.strip() for cell in row)][:wanted]
    lines_before = numbered[first - 1][0] if first else header[0]
    if not whole and not path.name.endswith(".gz"):
        rows = rows[: wanted // 2] + _rows_elsewhere(path, delimiter, len(names), sum(map(len, lines)), wanted // 8)
    at = next((place for place, (line, _) in enumerate(numbered) if line == header[0]), -1)
    second = [row for _, row in numbered[at + 1 : first]] if at >= 0 else []
    return Form(
        encoding, delimiter, names, max(lines_before, header[0]), rows, second,
        preamble=header[0] - 1, legend=legend, annotated=any(line.startswith("#datatype") for line in lines[:10]),
        whole=whole, row_bytes=max(1.0, sum(len(line.encode()) for line in lines[-100:]) / len(lines[-100:])),
    )  # fmt: skip


def _by_legend(names: list[str], above: Sequence[Sequence[str]]) -> tuple[list[str], int]:
    """Names that lines above the header explain, as `Point_1:,AHU.Supply Air`, and how many."""
    told = {row[0].strip().removesuffix(":").strip(): row[1].strip() for row in above if len(row) > 1}
    found = [told.get(name) or name for name in names]
    changed = sum(new != old for new, old in zip(found, names, strict=True))
    return (found, changed) if len(set(found)) == len(found) else (names, 0)


def _first_lines(path: Path) -> tuple[list[str], bool]:
    """Some lines from the beginning, and whether they are all."""
    lines: list[str] = []
    characters = 0
    with open_text(path) as file:
        for line in islice(lines_of(file), SAMPLE_LINES):
            if len(line) > LONGEST_ROW:
                raise RecordingError(
                    f"{path}, line {len(lines) + 1}: a row of more than {LONGEST_ROW} characters; expected a table of "
                    "readings"
                )
            lines.append(line)
            characters += len(line)
            if characters > SAMPLE_CHARACTERS and len(lines) > 4:
                break
        return lines, not file.readline(1)


def _require_table(path: Path, lines: Sequence[str]) -> None:
    text = "".join(lines[:50])
    controls = sum(character < " " and character not in "\t\r\n\f\0" for character in text)
    if controls > max(FREE_CONTROLS, 0.02 * len(text)):
        raise RecordingError(f"{path}: it cannot be read as text; expected a table of readings, as CSV")
    begin = text.lstrip("\ufeff \r\n")[:200].lower()
    kinds = {"{": "JSON", "[{": "JSON", "[\n": "JSON", "<": "a page or XML, perhaps of a login"}
    for mark, kind in kinds.items():
        if begin.startswith(mark):
            raise RecordingError(f"{path}: begins as {kind}; expected a table of readings, as CSV")


def _delimiter(lines: Sequence[str]) -> str:
    """The character that parts the lines most evenly into cells that are numbers, times or nothing."""
    useful = [line for line in lines if line.strip("\r\n\0 ") and not line.startswith(("#", "sep="))][:200]
    found = {delimiter: _evenness(useful, delimiter) for delimiter in DELIMITERS}
    best = max(found, key=lambda delimiter: found[delimiter])
    return best if found[best] > found[","] else ","


def _evenness(lines: Sequence[str], delimiter: str) -> float:
    rows: list[list[str]] = []
    with suppress(csv.Error):
        rows.extend(csv.reader(lines, delimiter=delimiter))
    rows = [row for row in rows if row]
    ((width, count),) = Counter(map(len, rows)).most_common(1) or [(1, 0)]
    if width < 2:
        return 0.0
    cells = [cell.strip() for row in rows[1:] if len(row) == width for cell in row[:50]]
    known = sum(number_like(cell) or _nothing(cell) or is_date(cell) or is_clock(cell) for cell in cells)
    return count / len(rows) * (0.1 + known / max(1, len(cells)))


def _nothing(cell: str) -> bool:
    return cell.lower() in MISSING or cell.lower() in WORDS_FOR_MISSING


def _rows(path: Path, lines: Sequence[str], delimiter: str) -> list[tuple[int, list[str]]]:
    """Rows with the number of their last line; without blank ones and comments."""
    reader, found = Rows(path, lines, delimiter=delimiter), []
    with suppress(csv.Error):
        for row in reader:
            first = row[0].lstrip() if row else ""
            comment = first.startswith("#") and not (len(row) > 2 and first.strip() == "#")  # `#` numbers the rows
            if any(cell.strip() for cell in row) and not comment and not first.lower().startswith("sep="):
                found.append((reader.line, row))
    return found


def header_of(
    path: Path, rows: list[tuple[int, list[str]]], lines: Sequence[str], delimiter: str
) -> tuple[tuple[int, list[str]], int]:
    """The header and the number of its line, and the place of the first reading among the rows."""
    if rows[0][1][0].strip() in LOGGERS and len(rows) > 1:
        return rows[1], next((at for at in range(2, min(6, len(rows))) if _is_reading(rows[at][1])), 2)
    for at, (_, row) in enumerate(rows[:40]):
        if any(plain_name(cell) in TIME_NAMES for cell in row) and not any(is_date(cell) for cell in row):
            return rows[at], _first_reading(rows, at + 1)
        if _is_reading(row) and at and len(row) > 1:
            width = len(row)
            before = next((place for place in range(at) if len(rows[place][1]) == width), at - 1)
            return rows[before], at
        if not at and len(row) > 1 and _is_no_header(row):
            return _header_in_a_comment(path, row, lines, delimiter), 0
    return rows[0], 1


def _first_reading(rows: list[tuple[int, list[str]]], start: int) -> int:
    """Where the readings begin: behind lines of units and the like, if any reading follows."""
    return next((at for at in range(start, min(start + 4, len(rows))) if _is_reading(rows[at][1])), start)


def _is_reading(row: Sequence[str]) -> bool:
    return any(number_like(cell) or is_date(cell) for cell in row)


def _is_no_header(row: Sequence[str]) -> bool:
    """Whether the first line is a reading: nothing but numbers and times, one of which nobody would take for a name.

    Columns may be called 0, 1, 2; hardly 21.5, or 1700000000.
    """
    filled = [cell.strip() for cell in row if cell.strip()]
    telling = [cell for cell in filled if is_date(cell) or not cell.isdigit() or len(cell) >= 9]
    return bool(telling) and all(number_like(cell) or is_date(cell) or is_clock(cell) for cell in filled)


def _header_in_a_comment(path: Path, row: list[str], lines: Sequence[str], delimiter: str) -> tuple[int, list[str]]:
    """Names in the comment above the readings; RecordingError where there are none."""
    for number, line in enumerate(lines, start=1):
        cells = next(csv.reader([line.lstrip("# ")], delimiter=delimiter), [])
        if line.startswith("#") and len(cells) == len(row):
            return number, cells
        if not line.startswith("#") and line.strip():
            break
    raise RecordingError(
        f"{path}: the first line is a reading ({delimiter.join(row)[:60]!r}); put a line of names above it"
    )


def _rows_elsewhere(path: Path, delimiter: str, width: int, seen: int, most: int) -> list[list[str]]:
    """Some rows from places of a large file behind the characters that were seen, none twice."""
    size = path.stat().st_size
    found: list[list[str]] = []
    with path.open("rb") as file:
        head = file.read(CHUNK)
        if head.startswith(GZIP) or encoding_of(head)[0].startswith("utf-16"):
            return []
        places = [(size - CHUNK) * place // PLACES for place in range(1, PLACES + 1)]
        for place in places if size > 2 * PLACES * CHUNK else []:
            if place < 2 * seen:  # characters may have several bytes
                continue
            file.seek(place)
            lines = file.read(CHUNK).decode("utf-8", LATIN_1).splitlines(keepends=True)[1:-1]
            with suppress(csv.Error):
                rows = [row for row in csv.reader(lines, delimiter=delimiter) if len(row) == width]
                found += rows[:most]
    return found
