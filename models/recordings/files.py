"""Files that may be anything: opened only if regular, and read with a bound on what they may become in memory."""

from __future__ import annotations

import codecs
import csv
import io
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from gatewatch.models.errors import RecordingError

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".xlsx", ".xls", ".ods")
TEXTS = (".txt", ".txt.gz", ".dat", ".log")
"""Of files that are tables if a person names them; in a folder they may be anything."""

SHEETS = (".xlsx", ".xls", ".ods")
"""Of spreadsheets."""

LONGEST_ROW = 2**20
"""Characters of a row of a table, and so of a line."""

FREE_BYTES, MOST_RATIO = 64 * 2**20, 200
"""What a gzip file may become whatever its size, and how many times its size beyond that. Readings that hardly change
become some 30 times smaller; deflate comes to 1,030 at most."""

FREE_MEMBERS, MEMBER_BYTES = 1000, 1024
"""So many members a gzip file may have whatever is in them; more of them hold so many bytes each on average."""

CHUNK, MOST_ZEROS = 2**16, 2**20
"""Bytes read at once, and bytes behind the last member that are nothing: tapes and disks have blocks."""


LATIN_1 = "gatewatch.latin-1"
"""Name of the handler of bytes that are no UTF-8."""

GZIP = b"\x1f\x8b"
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with a mark"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
KINDS = {
    b"PK\x03\x04": "a ZIP or Excel file by its first bytes: call it .xlsx, or unpack it",
    b"\xd0\xcf\x11\xe0": "an Excel file by its first bytes: call it .xls",
    b"PAR1": "a Parquet file by its first bytes: call it .parquet",
    b"%PDF": "a PDF by its first bytes",
    b"\x89PNG": "a picture by its first bytes",
    b"\xff\xd8\xff": "a picture by its first bytes",
    b"\x89HDF": "an HDF5 file by its first bytes",
    b"SQLite format 3": "a database by its first bytes",
    b"\x7fELF": "a program by its first bytes",
    b"BZh": "packed with bzip2: unpack it",
    b"\xfd7zXZ": "packed with xz: unpack it",
    b"\x28\xb5\x2f\xfd": "packed with zstd: unpack it",
}


def stem(path: Path) -> str:
    """A recording's name: the file's name without one of SUFFIXES or TEXTS."""
    for suffix in sorted((*SUFFIXES, *TEXTS), key=len, reverse=True):
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.stem


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading, up to where it ends now; a pipe or a device ends never, or blocks.

    Raises:
        RecordingError: it is no regular file.
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a socket or a device"
        raise RecordingError(f"{path} is {kind}; expected a regular file")
    return io.BufferedReader(_Beginning(io.FileIO(descriptor), found.st_size))


def open_text(path: Path) -> TextIO:
    """The text of a file, unpacked if it is gzip. Raises as `open_bytes`; while read, also zlib.error.

    A byte that is no UTF-8 is taken for Latin-1, so that a file of either can be read, and one of both.
    """
    file = open_bytes(path)
    return io.TextIOWrapper(file, encoding=encoding_of(file.peek(CHUNK)[:CHUNK])[0], errors=LATIN_1, newline="")


def open_bytes(path: Path) -> io.BufferedReader:
    """The bytes of a file, unpacked if it is gzip.

    Raises:
        RecordingError: it is no regular file, or one of another kind by its first bytes.
        OSError: it cannot be opened.
    """
    file = open_regular(path)
    if file.peek(2)[:2] == GZIP:  # whatever it is called
        return io.BufferedReader(_Unpacked(path, file), CHUNK)
    kind = next((kind for magic, kind in KINDS.items() if file.peek(16).startswith(magic)), None)
    if kind is not None:
        file.close()
        raise RecordingError(f"{path}: {kind}; expected a table as text, as CSV")
    return file


def encoding_of(head: bytes) -> tuple[str, str]:
    """The codec of a text that begins so, and its name for people."""
    for mark, codec, name in MARKS:
        if head.startswith(mark):
            return codec, name
    even, odd = head[0:2000:2].count(0), head[1:2000:2].count(0)
    half = min(len(head), 2000) // 2
    if half > 1 and max(even, odd) > 0.4 * half and min(even, odd) < 0.1 * half:
        return ("utf-16-le", "UTF-16") if odd > even else ("utf-16-be", "UTF-16")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "utf-8", "Latin-1"
    return "utf-8", "UTF-8"


def _as_latin_1(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError) or error.encoding.startswith("utf-16"):
        raise error
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error(LATIN_1, _as_latin_1)


def lines_of(file: TextIO) -> Iterator[str]:
    """The lines of a text, one too long in parts; `Rows` refuses those."""
    return iter(lambda: file.readline(LONGEST_ROW + 1), "")


class Rows:
    """Rows of a CSV, none of which takes more than LONGEST_ROW characters, be it over many lines.

    Attributes:
        line: of the row read last, counted from 1.
    """

    def __init__(
        self, path: Path, lines: Iterable[str], line: int = 0, *, delimiter: str = ",", strict: bool = False
    ) -> None:
        self.line = line
        self._path, self._taken = path, 0
        self._reader = csv.reader(self._bounded(lines), delimiter=delimiter, strict=strict)

    def _bounded(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            self.line += 1
            self._taken += len(line)
            if self._taken > LONGEST_ROW:
                raise RecordingError(
                    f"{self._path}, line {self.line}: a row of more than {LONGEST_ROW} characters; expected a table of "
                    "readings"
                )
            yield line.replace("\0", "") if "\0" in line else line

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        row = next(self._reader)
        self._taken = 0
        return row


class _Beginning(io.RawIOBase):
    """The first `size` bytes of a file: what is written behind them meanwhile belongs to the next reader."""

    def __init__(self, file: io.FileIO, size: int) -> None:
        self._file, self._left = file, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")[: self._left]  # type: ignore[arg-type]
        count = self._file.readinto(view) or 0
        self._left -= count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Unpacked(io.RawIOBase):
    """What is packed in a gzip file, one member after the other."""

    def __init__(self, path: Path, file: io.BufferedReader) -> None:
        self._path, self._file = path, file
        self._member = zlib.decompressobj(wbits=31)
        self._packed, self._begun = b"", False
        self._taken = self._given = self._members = self._zeros = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view, found = memoryview(buffer).cast("B"), b""  # type: ignore[arg-type]
        while not found and (self._packed or self._more()):
            found = self._unpack(len(view))
        if not found and self._begun:
            raise EOFError("it ends within a gzip member; copy the file again")
        view[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _more(self) -> bool:
        self._packed = self._file.read(CHUNK)
        self._taken += len(self._packed)
        return bool(self._packed)

    def _unpack(self, most: int) -> bytes:
        """Up to so many bytes more; none at the end of a member, or where more is to be read."""
        if not self._begun:
            if self._members:  # behind one, zeros are nothing
                packed = self._packed.lstrip(b"\0")
                self._zeros += len(self._packed) - len(packed)
                self._packed = packed
            if not self._packed:
                self._check()
                return b""
            self._member, self._begun = zlib.decompressobj(wbits=31), True
            self._members += 1
        found = self._member.decompress(self._packed, most)
        self._packed = self._member.unconsumed_tail
        if self._member.eof:
            self._packed, self._begun = self._member.unused_data, False
        self._given += len(found)
        self._check()
        return found

    def _check(self) -> None:
        if self._given > FREE_BYTES and self._given > MOST_RATIO * self._taken:
            raise RecordingError(
                f"{self._path}: becomes more than {MOST_RATIO} times its size when unpacked; expected readings"
            )
        if self._members > FREE_MEMBERS + self._given // MEMBER_BYTES or self._zeros > MOST_ZEROS:
            raise RecordingError(f"{self._path}: {self._members} gzip members with hardly anything in them")
