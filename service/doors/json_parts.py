"""Parts: a body cut into pieces that each take little time and memory, however large the whole is.

A few kilobytes of gzip can hold eight megabytes of anything: four million lines, a reading of 700,000 channels. So
what does not come as one small body without a flaw is decoded part by part. A part holds whole readings, and is no
longer than PART_BYTES, unless one reading is; between parts others have their turn, and the part that brings too many
readings is the last one that is looked at.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from gatewatch.service.doors.json_problems import SCAN, TOO_DEEP
from gatewatch.service.errors import BadRequest

PART_BYTES: Final = 65_536
"""Of a body, decoded in one go; more where the names of many channels make a reading longer."""

_BLANK: Final = re.compile(r"[ \t\r\n]*")
_LAST_COMMA: Final = re.compile(rb".*\}([ \t\r\n]*,[ \t\r\n]*)(?=\{)", re.DOTALL)
_NEXT_COMMA: Final = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*(?=\{)")
"""Between two objects of an array; or in a text, or between objects inside one, so cut there it may be no JSON."""


@dataclass(frozen=True)
class Body:
    """A body as text, without space around it.

    Attributes:
        content: UTF-8.
        form: `array`, `object` or `lines`, see Form in door.py.
    """

    content: bytes
    form: str


@dataclass(frozen=True)
class TooLong:
    """In the place of a reading, or a line, that has more bytes than a reading needs."""

    most: int

    def __str__(self) -> str:
        return f"it has more than {self.most} bytes, which no reading needs"


def opened(raw: bytes, lines: bool, most: int) -> Body:
    """A body, and its form. Objects in lines of their own are lines, whatever their content type.

    Args:
        raw: as it was sent.
        lines: whether its content type is that of lines.
        most: bytes of a reading.

    Raises:
        BadRequest: it is empty, or no text.
    """
    encoding = json.detect_encoding(raw)
    try:
        if encoding != "utf-8":
            raw = raw.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
    except UnicodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    content = raw.strip()
    if not content:
        raise BadRequest("the body is empty; expected a JSON array of readings, or NDJSON")
    if not lines and content[:1] == b"{":
        lines = _is_object(content[: max(content.find(b"\n", 0, most), 0)])
    return Body(content, "lines" if lines else "array" if content[:1] == b"[" else "object")


def _is_object(line: bytes) -> bool:
    try:
        text = line.decode("utf-8", "surrogatepass").rstrip()
        item, end = SCAN(text, 0)
    except (StopIteration, ValueError, RecursionError):
        return False
    return isinstance(item, dict) and end == len(text)


def lines_of(content: bytes, most: int) -> Iterator[list[tuple[int, bytes | TooLong]]]:
    """The lines of a body that are not blank, with their numbers, counted from 1; `most`: bytes of one."""
    at, number = 0, 1
    while at < len(content):
        ends = (
            len(content) if len(content) - at <= n else content.rfind(b"\n", at, at + n) + 1 for n in (PART_BYTES, most)
        )
        if end := next(filter(None, ends), 0):
            found = content[at:end].removesuffix(b"\n").split(b"\n")
            yield [(number + place, line) for place, line in enumerate(found) if line.strip()]
            number += len(found)
        else:
            end = content.find(b"\n", at + most) + 1 or len(content)
            yield [(number, TooLong(most))]
            number += 1
        at = end


class Array:
    """The items of an array, read from its beginning to its end.

    Attributes:
        ended: nothing is left.
    """

    def __init__(self, content: bytes, most: int) -> None:
        """`most`: bytes of an item."""
        self.ended = False
        self._content = content
        self._most = most
        self._at = 1

    def piece(self) -> tuple[bytes, int] | None:
        """An array of the next items, up to a comma that seems to stand between two of them, and where it is."""
        if self._at > 1 and self._content[self._at : self._at + 1] == b"]":
            return None  # behind a comma
        for most in (PART_BYTES, self._most):
            if len(self._content) - self._at <= most:
                return b"[" + self._content[self._at :], len(self._content)
            if (found := _LAST_COMMA.match(self._content, self._at, self._at + most)) is not None:
                return b"[%b]" % self._content[self._at : found.start(1)], found.end(1)
        return None

    def go_on(self, at: int) -> None:
        """Leave out what was read otherwise."""
        self._at = at
        self.ended = at == len(self._content)

    def items(self, most_items: int) -> list[Any]:
        """The next items, as Python reads them; none, where there was space alone.

        Raises:
            BadRequest: no JSON, or nested too deeply; or something of this length that is no object.
        """
        try:
            text, _ = codecs.utf_8_decode(self._content[self._at : self._at + self._most], "surrogatepass", False)
        except UnicodeError as error:
            raise BadRequest(f"the body is not JSON: {error}") from None
        items: list[Any] = []
        at = _BLANK.match(text).end()  # type: ignore[union-attr]
        while len(items) < most_items:
            try:
                item, end = SCAN(text, at)
            except RecursionError:
                raise BadRequest(TOO_DEEP) from None
            except (StopIteration, ValueError):  # no JSON, or cut off
                break
            behind = _BLANK.match(text, end).end()  # type: ignore[union-attr]
            if text[behind : behind + 1] == ",":
                items.append(item)
                at = _BLANK.match(text, behind + 1).end()  # type: ignore[union-attr]
            elif behind + 1 == len(text) and text[behind] == "]" and self._at + self._most >= len(self._content):
                items.append(item)
                self.ended = True
                break
            elif behind == len(text) and (items or at):
                break  # perhaps cut off
            else:
                raise self._wrong()
        if at == 0 and not items:
            return [self._too_long()]
        self._at += len(text[:at].encode("utf-8", "surrogatepass"))
        return items

    def _too_long(self) -> TooLong:
        """Pass an item that is longer than it may be; where it ends is a guess, and behind it there has to be JSON."""
        start, content = self._at, self._content
        if len(content) - start > self._most and content[start : start + 1] == b"{":
            if (found := _NEXT_COMMA.search(content, start + self._most - 1)) is not None:
                self._at = found.end()
                return TooLong(self._most)
            if content[-1:] == b"]" and content[:-1].rstrip().endswith(b"}"):
                self.ended = True
                return TooLong(self._most)
        raise self._wrong()

    def _wrong(self) -> BadRequest:
        return BadRequest(f"the body is not an array of readings from byte {self._at} on: no JSON, or no reading")
