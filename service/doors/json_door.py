"""JsonDoor: a body that is an array of readings, or one reading. What is large, or has a flaw, is decoded in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from gatewatch.service.core.outcomes import Encoder
from gatewatch.service.doors.door import Context, Decoded, Form, Mixed, Opened
from gatewatch.service.doors.json_parts import PART_BYTES, Array, opened
from gatewatch.service.doors.json_problems import NOT_READ, kind, lenient_json
from gatewatch.service.doors.json_results import JsonEncoder
from gatewatch.service.doors.ndjson_door import NdjsonDoor
from gatewatch.service.doors.reading_decoder import PART_READINGS
from gatewatch.service.errors import BadRequest, TooLarge

READ_AS_JSON: Final = frozenset(
    (
        "",
        "application/json",
        "text/json",
        "text/plain",  # many clients, of text
        "application/octet-stream",  # many clients, of bytes
        "application/x-www-form-urlencoded",  # curl -d
    )
)


def is_json(media_type: str) -> bool:
    """Whether bodies of a content type, in lower case and without parameters, are read as JSON."""
    return media_type in READ_AS_JSON or media_type.endswith("+json")


def _array(pieces: Sequence[str]) -> bytes:
    return f"[{','.join(pieces)}]".encode()


ARRAY: Final = Form(b"application/json", _array)
OBJECT: Final = Form(b"application/json", lambda pieces: pieces[0].encode())


class JsonDoor:
    """JSON; but objects in lines of their own are NDJSON, whatever their content type."""

    def __init__(self, lines: NdjsonDoor) -> None:
        self.encoder: Encoder = JsonEncoder()
        self._lines = lines

    def takes(self, media_type: str) -> bool:
        """Whether it is read as JSON."""
        return is_json(media_type)

    def decode(self, content: bytes, context: Context) -> tuple[Decoded | Mixed, Form] | None:
        """A small body of readings without a flaw; None for any other."""
        if len(content) > PART_BYTES:
            return None
        decoder = context.decoder
        try:
            if content.lstrip()[:1] == b"[":
                items, form = decoder.many.decode(content), ARRAY
            else:
                items, form = [decoder.one.decode(content)], OBJECT
        except NOT_READ:
            return None
        decoder.check_count(len(items))
        return decoder.columns(items, context), form

    def open(self, content: bytes, context: Context) -> Opened:
        """Any other body. Raises BadRequest."""
        body = opened(content, False, context.decoder.reading_bytes)
        if body.form == "lines":
            return self._lines.open(content, context)
        if body.form == "object":
            return Opened(OBJECT, self._object(body.content, context))
        return Opened(ARRAY, self._array(body.content, context))

    def _object(self, content: bytes, context: Context) -> Iterator[Decoded | Mixed]:
        decoder = context.decoder
        if len(content) > decoder.reading_bytes:
            raise TooLarge(f"the body is one value of more than {decoder.reading_bytes} bytes, which no reading needs")
        item = lenient_json(content)
        if not isinstance(item, dict):
            raise BadRequest(f"the body is {kind(item)}; expected an array of readings, or one reading as an object")
        yield decoder.columns([decoder.convert(item)], context)

    def _array(self, content: bytes, context: Context) -> Iterator[Decoded | Mixed]:
        decoder = context.decoder
        array, count = Array(content, decoder.reading_bytes), 0
        whole = len(content) <= PART_BYTES
        while not array.ended:
            if (piece := array.piece()) is not None and (good := decoder.all_readings(piece[0])) is not None:
                array.go_on(piece[1])
                count += len(good)
                decoder.check_count(count, not array.ended)
                yield decoder.columns(good, context)
                continue
            if whole:
                items = lenient_json(content)
                array.go_on(len(content))
            else:
                items = array.items(decoder.most - count + 1)
            count += len(items)
            decoder.check_count(count, not whole)
            for start in range(0, len(items), PART_READINGS):
                part = items[start : start + PART_READINGS]
                yield decoder.columns([decoder.convert(item) for item in part], context)
