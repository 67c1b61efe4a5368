"""Door: one format of bodies. It turns bytes into Readings, and outcomes into bytes; a door is one file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec

from gatewatch.service.core.outcomes import Answer, Encoded, Encoder, Refused
from gatewatch.service.core.readings import Readings
from gatewatch.service.core.stream_key import StreamKey

if TYPE_CHECKING:
    from gatewatch.service.doors.reading_decoder import ReadingDecoder
    from gatewatch.service.doors.routing import RoutingDecoder
    from gatewatch.service.serving.served_model import ServedModel

STREAM_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
NAMES_KEPT: Final = 65_536


class StreamNames:
    """The streams of a tenant by name; those that are valid are kept."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.known: dict[str, StreamKey] = {}

    def key(self, name: str) -> StreamKey | None:
        """Whose stream it is; None if that is no name of a stream."""
        if (key := self.known.get(name)) is None and STREAM_NAME.fullmatch(name):
            if len(self.known) > NAMES_KEPT:
                self.known.clear()
            key = self.known[name] = StreamKey(self.tenant, name)
        return key


class Context(msgspec.Struct, frozen=True, gc=False):
    """What a door must know of a request.

    Attributes:
        model: whose channels the readings have.
        names: of the tenant's streams.
        stream: that of the path, for readings that name none; a reading that names another is rejected.
        now_ms: the service's clock.
        routing: decodes where streams have models of their own.
    """

    model: ServedModel
    names: StreamNames
    stream: str | None
    now_ms: int
    routing: RoutingDecoder | None = None

    @property
    def decoder(self) -> ReadingDecoder | RoutingDecoder:
        """Makes readings of items."""
        return self.routing or self.model.decoder


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """N items of a body, or of a part of one.

    Attributes:
        readings: those that can be scored.
        refused: place among the N items of each other one, to why it cannot.
        unknown: place among the N items of a reading whose model does not know all of its channels, to those left out.
    """

    readings: Readings
    refused: dict[int, Refused]
    unknown: dict[int, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self.readings) + len(self.refused)

    def merged(self, answers: list[Answer], encoder: Encoder) -> list[Answer]:
        """The answers to all items, from those to the readings, which the encoder wrote."""
        if self.refused:
            rest = iter(answers)
            answers = [self.refused[at] if at in self.refused else next(rest) for at in range(len(self))]
        for at, channels in self.unknown.items():
            if type(answers[at]) is not Refused:
                answers[at] = encoder.with_unknown(answers[at], channels)
        return answers


class Form(NamedTuple):
    """How the answers to a body are put together.

    Attributes:
        media_type: of the reply.
        join: answers, in order, to the reply's body.
    """

    media_type: bytes
    join: Callable[[Sequence[Encoded]], bytes]


class Part(NamedTuple):
    """The items of a body that are of one model, and where they stand among all of its items; [] if they are all."""

    decoded: Decoded
    places: list[int]


class Mixed(msgspec.Struct, frozen=True):
    """N items of a body, or of a part of one, that are of several models."""

    parts: list[Part]

    def __len__(self) -> int:
        return sum(len(decoded) for decoded, _ in self.parts)


def by_model(parts: Sequence[Decoded | Mixed]) -> list[Part]:
    """The items of a body that was decoded in parts: one part for each model."""
    if len(parts) == 1 and isinstance(only := parts[0], Decoded):
        return [Part(only, [])]
    groups: dict[int, Part] = {}
    items = 0
    for part in parts:
        of_models: Sequence[tuple[Decoded, Iterable[int]]] = (
            part.parts if isinstance(part, Mixed) else [(part, range(len(part)))]
        )
        for decoded, places in of_models:
            readings = decoded.readings
            if (whole := groups.get(id(readings.model))) is None:
                begun = Readings(readings.model, [], [], [], [], None if readings.channels is None else [])
                whole = groups[id(readings.model)] = Part(Decoded(begun, {}, {}), [])
            whole.decoded.readings.extend(readings)
            whole.decoded.refused.update({len(whole.places) + at: why for at, why in decoded.refused.items()})
            whole.decoded.unknown.update({len(whole.places) + at: names for at, names in decoded.unknown.items()})
            whole.places.extend(map(items.__add__, places))
        items += len(part)
    return list(groups.values())


def merged(parts: Sequence[Part], answers: Sequence[list[Answer]], encoder: Encoder) -> list[Answer]:
    """The answers to all items, from those to the readings of each part, which the encoder wrote."""
    if len(parts) == 1:
        return parts[0].decoded.merged(answers[0], encoder)
    whole: list[Answer] = [None] * sum(len(decoded) for decoded, _ in parts)
    for (decoded, places), of_part in zip(parts, answers, strict=True):
        for place, answer in zip(places, decoded.merged(of_part, encoder), strict=True):
            whole[place] = answer
    return whole


class Opened(NamedTuple):
    """A body that is decoded part by part; each takes some milliseconds, so that others have their turn in between.

    Attributes:
        parts: raises BadRequest for what is no body of this format, TooLarge for too many readings.
    """

    form: Form
    parts: Iterator[Decoded | Mixed]


class Door(Protocol):
    """A format."""

    @property
    def encoder(self) -> Encoder:
        """Writes the answers."""

    def takes(self, media_type: str) -> bool:
        """Whether bodies of a content type, in lower case and without parameters, come through this door."""

    def decode(self, content: bytes, context: Context) -> tuple[Decoded | Mixed, Form] | None:
        """A small body of readings that are all as they should be, the usual case; None for any other body.

        Raises:
            TooLarge: more readings than a request may have.
        """

    def open(self, content: bytes, context: Context) -> Opened:
        """Any other body; asked for again, from the beginning, for each model that must be loaded first.

        Raises:
            BadRequest: it is none.
        """
