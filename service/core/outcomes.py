"""Outcomes: what leaves the core, in columns; whatever door writes it. And Refused: why a reading was not applied."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import numpy as np

from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout, entry_dtype
from gatewatch.service.core.readings import LARGEST_SEQ, NO_SEQ, NO_TIME
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import ServiceError

SHOWN: Final = 64
"""Characters of a rejected name that are echoed."""

Encoded = Any
"""What a door wrote of one outcome."""


@dataclass(frozen=True)
class Outcomes:
    """What readings came to that were applied, now or before.

    Attributes:
        streams: (B,) their streams.
        entries: (B,) as their histories have them.
        channels: (B,) of each what the columns of its entry belong to, (C,) names; mostly one and the same.
        replayed: they were applied before.
    """

    streams: Sequence[StreamKey]
    entries: Entries
    channels: Sequence[tuple[str, ...]]
    replayed: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a reading was not applied; nothing of its stream has changed.

    Attributes:
        stream, timestamp, seq: as they were sent, as far as they can be shown.
        status: late, conflict or rejected.
        error: what came, and what was expected.
        instead: what a request gets as a whole if it has no other reading, so that its sender sends it again.
    """

    stream: str | None
    timestamp: str | None
    seq: int | None
    status: str
    error: str
    instead: ServiceError | None = None


class Encoder(Protocol):
    """Writes answers: a part of a door."""

    def encode(self, outcomes: Outcomes) -> list[Encoded]:
        """The answer of each reading."""

    def refusal(self, refused: Refused) -> Encoded:
        """The answer to a reading that was not applied."""

    def with_unknown(self, answer: Encoded, channels: Sequence[str]) -> Encoded:
        """The answer to a reading that was applied without these channels, which its model does not know."""


Answer = Encoded | Refused | Exception | asyncio.Future[Any]
"""A reading's answer; or why it was refused; or why it has none, which concerns its stream or its model alone; or the
future of an answer (or Refused) that comes later."""


def encode(encoders: Sequence[Encoder], outcomes: Outcomes) -> list[Encoded]:
    """The answers of outcomes, each written by its own encoder; mostly that is one."""
    if len(set(map(id, encoders))) <= 1:
        return encoders[0].encode(outcomes) if encoders else []
    written: list[Encoded] = [None] * len(encoders)
    for encoder in {id(encoder): encoder for encoder in encoders}.values():
        own = [at for at, other in enumerate(encoders) if other is encoder]
        part = Outcomes(
            [outcomes.streams[at] for at in own],
            outcomes.entries[own],
            [outcomes.channels[at] for at in own],
            outcomes.replayed,
        )
        for at, answer in zip(own, encoder.encode(part), strict=True):
            written[at] = answer
    return written


def kept_outcomes(streams: Sequence[StreamKey], kept: Entries, layout: Layout) -> Iterator[Outcomes]:
    """The outcomes of readings as their history has them, with the channels of the model that scored each.

    Args:
        kept: in the channels of the stream.
        layout: of the streams.
    """
    if not np.isnan(kept["attribution"]).any():
        yield Outcomes(streams, kept, [layout.channels] * len(kept), replayed=True)
        return
    for stream, entry in zip(streams, kept, strict=True):
        scored = np.isfinite(entry["attribution"])
        if not scored.any():  # by a state that was damaged; an answer has some channel
            scored[:] = True
        narrow = np.empty(1, entry_dtype(int(scored.sum())))
        for name in narrow.dtype.names or ():
            narrow[name] = entry[name][scored] if entry[name].shape else entry[name]
        own = tuple(channel for channel, there in zip(layout.channels, scored.tolist(), strict=True) if there)
        yield Outcomes([stream], narrow, [own], replayed=True)


def encode_kept(
    encoders: Sequence[Encoder], streams: Sequence[StreamKey], kept: Entries, layout: Layout
) -> list[Encoded]:
    """The answers of readings that were applied before, see `kept_outcomes`."""
    answers: list[Encoded] = []
    for outcomes in kept_outcomes(streams, kept, layout):
        answers += encode(encoders[len(answers) : len(answers) + len(outcomes.streams)], outcomes)
    return answers


def rejected(stream: str | None, timestamp: str | None, seq: int | None, error: str) -> Refused:
    """Why a reading cannot be scored."""
    if seq is not None and not 0 <= seq <= LARGEST_SEQ:
        seq = None
    return Refused(clip(stream), clip(timestamp), seq, "rejected", error)


def not_taken(stream: StreamKey, timestamp_ms: int, seq: int, error: str) -> Refused:
    """Why a reading of a batch cannot be scored; time and seq may be NO_TIME and NO_SEQ."""
    time = None if timestamp_ms == NO_TIME else format_time(timestamp_ms)
    return rejected(stream.name, time, None if seq == NO_SEQ else seq, error)


def clip(text: str | None) -> str | None:
    """At most 64 characters, printable ASCII: a rejected name is echoed, never trusted."""
    if text is None:
        return None
    plain = text[: SHOWN + 1].encode("ascii", "backslashreplace").decode()
    plain = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in plain)
    return plain if len(text) <= SHOWN else plain[:SHOWN] + "…"


def format_time(timestamp_ms: int) -> str:
    """Unix milliseconds as RFC 3339 in UTC, with milliseconds where there are any."""
    moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds" if timestamp_ms % 1000 else "seconds").replace("+00:00", "Z")
