"""The few things of a protobuf message that are needed to look into one without its schema."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

MOST_FIELDS = 200_000
"""Of one message: each takes some hundred bytes of memory, and may have two in the file."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Message:
    """A message by the numbers of its fields. What stands in it several times is joined as protobuf's parsers do it."""

    def __init__(self, content: memoryview | bytes) -> None:
        """Raises IndexError for what is no message, or one of more than MOST_FIELDS."""
        self._fields: defaultdict[int, list[memoryview]] = defaultdict(list)
        for count, (number, part) in enumerate(fields(memoryview(content))):
            if count == MOST_FIELDS:
                raise IndexError(count)
            self._fields[number].append(part)

    def has(self, *numbers: int) -> bool:
        """Whether one of these fields is there."""
        return any(number in self._fields for number in numbers)

    def parts(self, number: int) -> list[memoryview]:
        """A repeated field: text, bytes or messages."""
        return self._fields.get(number, [])

    def message(self, number: int) -> Message:
        """A message within it: several are merged, which is what their bytes one behind the other are."""
        return Message(b"".join(self.parts(number)))

    def text(self, number: int) -> str:
        """A text; the last one counts."""
        return str(self.parts(number)[-1], "utf-8") if self.has(number) else ""

    def number(self, number: int) -> int:
        """A signed number; the last one counts, and 0 is one that is not there."""
        return _signed(varint(self.parts(number)[-1], 0)[0]) if self.has(number) else 0

    def numbers(self, number: int) -> Iterator[int]:
        """Signed numbers, packed or not. Raises IndexError."""
        for part in self.parts(number):
            at = 0
            while at < len(part):
                value, at = varint(part, at)
                yield _signed(value)


def fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field of a protobuf message; IndexError for what is none."""
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        kind = tag & 7
        begin = at
        if kind == VARINT:
            _, at = varint(message, at)
        elif kind == BYTES:
            length, begin = varint(message, at)
            at = begin + length
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        else:
            raise IndexError(kind)
        if at > len(message):
            raise IndexError(at)
        yield tag >> 3, message[begin:at]


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends; IndexError for one of more than ten bytes."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (message[at] & 127) << shift
        if message[at] < 128:
            return value, at + 1
        at += 1
    raise IndexError(at)


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >> 63 else value
