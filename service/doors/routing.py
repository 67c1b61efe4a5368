"""RoutingDecoder: readings of streams of several models; each is decoded for the model of its own stream.

It stands where a model's decoder stands, and hands the items of a body on to those of their models: it looks for the
name of the stream, and leaves the rest as it was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from gatewatch.service.core.outcomes import Refused, rejected
from gatewatch.service.doors.door import Context, Decoded, Mixed, Part
from gatewatch.service.doors.json_parts import TooLong
from gatewatch.service.doors.json_problems import NOT_READ, lenient_json
from gatewatch.service.errors import BadRequest

if TYPE_CHECKING:
    from gatewatch.service.doors.reading_decoder import ReadingDecoder
    from gatewatch.service.serving.served_model import ServedModel


T = TypeVar("T")


class _Named(msgspec.Struct):
    stream: str = ""


class _Line(NamedTuple):
    """A line of NDJSON, and its number."""

    number: int
    line: bytes | TooLong


class _AsSent(Generic[T]):
    """Decodes JSON without looking into it, but for what msgspec passes over there: whether it is UTF-8."""

    def __init__(self, kind: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(kind)

    def decode(self, content: bytes) -> T:
        """The content. Raises one of NOT_READ."""
        content.decode()
        return self._decoder.decode(content)


_NAMED: Final = msgspec.json.Decoder(_Named)


class RoutingDecoder:
    """Items to columns, for the models of their streams; has the methods of ReadingDecoder.

    Attributes:
        one, many, reading_bytes: as of ReadingDecoder, but items are left as they were sent.
    """

    def __init__(self, model_of: Callable[[str], ServedModel], default: ReadingDecoder, reading_bytes: int) -> None:
        """Read for a request.

        Args:
            model_of: the model of a stream by its name, be that none.
            default: that of the default model; counts readings.
            reading_bytes: that a reading of any of the models may have.
        """
        self.one = _AsSent(msgspec.Raw)
        self.many = _AsSent(list[msgspec.Raw])
        self.reading_bytes = reading_bytes
        self.most = default.most
        self.check_count = default.check_count
        self._model_of = model_of

    def all_readings(self, content: bytes) -> list[Any] | None:
        """The items of an array; None where it is none."""
        try:
            return self.many.decode(content)
        except NOT_READ:
            return None

    @staticmethod
    def line(number: int, line: bytes | TooLong) -> Any:
        """A line of NDJSON."""
        return _Line(number, line)

    @staticmethod
    def convert(content: Any) -> Any:
        """One item of JSON."""
        return content

    def columns(self, items: Sequence[Any], context: Context) -> Decoded | Mixed:
        """Lay items out in columns, apart for each model."""
        groups: dict[int, tuple[ServedModel, list[int]]] = {}
        for place, item in enumerate(items):
            model = self._model_of(context.stream or _name(item))
            groups.setdefault(id(model), (model, []))[1].append(place)
        parts = [
            Part(_columns([items[at] for at in places], model, context), places) for model, places in groups.values()
        ]
        return parts[0].decoded if len(parts) == 1 else Mixed(parts)


def _columns(items: list[Any], model: ServedModel, context: Context) -> Decoded:
    return model.decoder.columns(
        _decoded(items, model.decoder), msgspec.structs.replace(context, model=model, routing=None)
    )


def _name(item: Any) -> str:
    """The stream that an item names; empty where it names none."""
    if isinstance(item, _Line):
        if isinstance(item.line, TooLong):
            return ""
        item = item.line
    if isinstance(item, (msgspec.Raw, bytes)):
        try:
            return _NAMED.decode(item).stream
        except NOT_READ:
            return ""
    name = item.get("stream") if isinstance(item, dict) else None
    return name if isinstance(name, str) else ""


def _decoded(items: list[Any], decoder: ReadingDecoder) -> list[Any]:
    """Items as a model's decoder takes them; all at once where none has a flaw."""
    if all(type(item) is msgspec.Raw for item in items):
        readings = decoder.all_readings(b"[" + b",".join(items) + b"]")
        if readings is not None:
            return readings
    return [_one(item, decoder) for item in items]


def _one(item: Any, decoder: ReadingDecoder) -> Any:
    if isinstance(item, _Line):
        return decoder.line(*item)
    if isinstance(item, Refused):
        return item
    if not isinstance(item, msgspec.Raw):
        return decoder.convert(item)
    try:
        return decoder.convert(lenient_json(bytes(item)))
    except BadRequest as error:
        return rejected(None, None, None, str(error))
