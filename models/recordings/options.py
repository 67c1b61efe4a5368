"""What a user may say about how a recording is written: options of the commands, or a small TOML beside the file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.files import stem
from gatewatch.models.text import listed

FOLDER_FILE = "gatewatch.toml"
"""For all recordings of its folder; NAME.toml is for the recordings called NAME and goes before it."""

MOST_BYTES = 2**16
DELIMITERS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " ", "\\t": "\t"}
DECIMALS = {"comma": ",", "point": "."}

LONGEST_STEP_S = 366 * 86_400
LISTS = ("missing", "leave_out")
"""Options that may be given several times."""


@dataclass(frozen=True)
class ReadOptions:
    """What is said of a recording; None is found out.

    Attributes:
        time_column: the column of times, or two with a comma between: date and time of day.
        time_format: `iso`, `s`, `ms`, `us`, `ns`, `excel`, `day-first`, `month-first`, `year-first`, or as strptime
            takes it.
        timezone: of times that name none: a name as Europe/Berlin, or +01:00; UTC if None.
        delimiter: one character between cells, or its name.
        decimal: between a whole number and its parts: `.` or `,`.
        missing: words and numbers that stand for a missing value.
        long: columns of names and of values with a comma between; `no` where each column is a channel.
        label_column: marks readings, and is no channel; `no` where every column is one, whatever it is called.
        every: seconds from each row to the next, of a recording without times.
        leave_out: columns that are not to be channels, of a long table names of channels.
    """

    time_column: str | None = None
    time_format: str | None = None
    timezone: str | None = None
    delimiter: str | None = None
    decimal: str | None = None
    missing: tuple[str, ...] = ()
    long: str | None = None
    label_column: str | None = None
    every: str | None = None
    leave_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Take names of signs for the signs. Raises RecordingError for what is none."""
        delimiter = DELIMITERS.get((self.delimiter or "").lower(), self.delimiter)
        decimal = DECIMALS.get((self.decimal or "").lower(), self.decimal)
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
            raise RecordingError(f"--delimiter {delimiter!r:.40}: expected one character, or {listed(DELIMITERS)}")
        if decimal not in (None, ".", ","):
            raise RecordingError(f"--decimal {decimal!r:.40}: expected . or ,")
        if self.every is not None and not 0 < (_number(self.every) or 0) <= LONGEST_STEP_S:
            raise RecordingError(f"--every {self.every!r:.40}: expected seconds, as 60 or 0.1")
        object.__setattr__(self, "delimiter", delimiter)
        object.__setattr__(self, "decimal", decimal)

    @property
    def every_us(self) -> int:
        """Microseconds from each row to the next; 0 where the rows have times."""
        return 0 if self.every is None else max(1, round(float(self.every) * 1_000_000))

    @property
    def missing_words(self) -> frozenset[str]:
        """Those that are no numbers, in lower case."""
        return frozenset(word.strip().lower() for word in self.missing if _number(word) is None)

    @property
    def missing_numbers(self) -> tuple[float, ...]:
        """Those that are."""
        return tuple(found for word in self.missing if (found := _number(word)) is not None)

    def beside(self, path: Path) -> ReadOptions:
        """These, and for what they leave open, what the TOML files beside a recording say.

        Raises:
            RecordingError: such a file cannot be read, or says what is no option.
        """
        said: dict[str, Any] = {}
        for file in (path.parent / FOLDER_FILE, path.with_name(f"{stem(path)}.toml")):
            if file.is_file():
                said |= _read(file)
        given = {field.name: value for field in fields(self) if (value := getattr(self, field.name))}
        return replace(self, **(said | given)) if said else self


AS_FOUND = ReadOptions()


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _read(file: Path) -> Mapping[str, Any]:
    try:
        with file.open("rb") as opened:
            content = tomllib.loads(opened.read(MOST_BYTES).decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecordingError(f"{file}: cannot be read: {error}") from error
    found: dict[str, Any] = {}
    names = [field.name for field in fields(ReadOptions)]
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in names:
            raise RecordingError(f"{file}: {key} is no option of a recording; expected {listed(names)}")
        if name in LISTS:
            words: Sequence[object] = value if isinstance(value, list) else [value]
            found[name] = tuple(map(str, words))
        elif not isinstance(value, str):
            raise RecordingError(f"{file}: {key} is {value!r:.40}; expected text")
        else:
            found[name] = value
    return found
