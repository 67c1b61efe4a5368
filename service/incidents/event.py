"""Event: what became of an incident, kept with the reading that caused it until somebody was told."""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.incident import id_of

What = Literal["opened", "reopened", "ended"]
EVENTS: Final[tuple[What, ...]] = get_args(What)


class Event(msgspec.Struct, frozen=True, array_like=True):
    """An incident that opened, went on after it had ended, or ended.

    Attributes:
        at_ms: when that was saved, Unix milliseconds.
        n: the incident's number; below 0 that of a silence.
    """

    what: What
    at_ms: int
    tenant: str
    n: int
    stream: str

    @property
    def key(self) -> StreamKey:
        """The incident's stream."""
        return StreamKey(self.tenant, self.stream)

    @property
    def incident(self) -> str:
        """The incident's id."""
        return id_of(self.n, self.stream)

    @property
    def id(self) -> str:
        """Names the event, the same each time that it is sent."""
        return f"{self.what}.{self.at_ms}.{self.tenant}/{self.incident}"

    @property
    def queued(self) -> tuple[bytes, bytes]:
        """Score and member in the outbox: due at once, behind what was before, and an end behind its beginning."""
        return b"%.14f" % ((10 * self.at_ms + EVENTS.index(self.what)) / 1e14), self.encode()

    def encode(self) -> bytes:
        """As it is kept."""
        return msgspec.json.encode(self)


def decode(kept: bytes) -> Event | None:
    """What is kept; None where it cannot be read."""
    try:
        return msgspec.json.decode(kept, type=Event)
    except (msgspec.MsgspecError, RecursionError):
        return None
