"""NdjsonDoor: a body with a reading in each line, answered with a result in each line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from gatewatch.service.core.outcomes import Encoder
from gatewatch.service.doors.door import Context, Decoded, Form, Mixed, Opened
from gatewatch.service.doors.json_parts import PART_BYTES, lines_of, opened
from gatewatch.service.doors.json_problems import NOT_READ
from gatewatch.service.doors.json_results import JsonEncoder
from gatewatch.service.doors.reading_decoder import PART_READINGS

MEDIA_TYPES: Final = ("application/x-ndjson", "application/ndjson", "application/jsonl")


def _lines(pieces: Sequence[str]) -> bytes:
    return ("\n".join(pieces) + "\n").encode()


LINES: Final = Form(b"application/x-ndjson", _lines)


class NdjsonDoor:
    """Lines of JSON."""

    def __init__(self) -> None:
        self.encoder: Encoder = JsonEncoder()

    def takes(self, media_type: str) -> bool:
        """Whether it is one of the names of NDJSON."""
        return media_type in MEDIA_TYPES

    def decode(self, content: bytes, context: Context) -> tuple[Decoded | Mixed, Form] | None:
        """A small body of readings without a flaw; None for any other."""
        if len(content) > PART_BYTES:
            return None
        decoder = context.decoder
        try:
            items = [decoder.one.decode(line) for line in content.split(b"\n") if line.strip()]
        except NOT_READ:
            return None
        if not items:
            return None
        decoder.check_count(len(items))
        return decoder.columns(items, context), LINES

    def open(self, content: bytes, context: Context) -> Opened:
        """Any other body. Raises BadRequest."""
        return Opened(LINES, self._parts(opened(content, True, context.decoder.reading_bytes).content, context))

    def _parts(self, content: bytes, context: Context) -> Iterator[Decoded | Mixed]:
        decoder, count = context.decoder, 0
        for lines in lines_of(content, decoder.reading_bytes):
            count += len(lines)
            decoder.check_count(count, len(content) > decoder.reading_bytes)
            for start in range(0, len(lines), PART_READINGS):
                part = lines[start : start + PART_READINGS]
                yield decoder.columns([decoder.line(*line) for line in part], context)
