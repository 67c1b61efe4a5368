"""Reading and Result: what is sent, and what comes back for it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Values = Mapping[str, float | None] | float


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of a stream.

    Attributes:
        stream: its name.
        values: channel to value in the channel's unit, None where it is missing; or the value of the only channel.
        timestamp: Unix seconds.
        seq: the sender's count, which identifies the reading when it is sent again; None: its timestamp does.
    """

    stream: str
    values: dict[str, float | None] | float
    timestamp: float
    seq: int | None = None

    @classmethod
    def of(
        cls, stream: str, values: Values, timestamp: datetime | float | None = None, seq: int | None = None
    ) -> Reading:
        """A reading from what senders have at hand; NaN is missing, and without a time it is of now.

        Raises:
            ValueError: a value is infinite, or a time has no zone.
            TypeError: a value is not a number.
        """
        if isinstance(values, Mapping):
            checked: dict[str, float | None] | float = {
                str(channel): _number(value, channel) for channel, value in values.items()
            }
        else:
            only = _number(values, stream)
            if only is None:
                raise ValueError(f"{stream}: the only value is missing")
            checked = only
        return cls(stream, checked, _seconds(timestamp, stream), None if seq is None else int(seq))

    def as_json(self) -> dict[str, Any]:
        """The reading as the service takes it."""
        body: dict[str, Any] = {"stream": self.stream, "timestamp": self.timestamp, "values": self.values}
        return body if self.seq is None else body | {"seq": self.seq}


@dataclass(frozen=True, slots=True)
class Result:
    """What the service says of one reading; docs/http-api.md has the words.

    Attributes:
        status: warming_up, normal, anomalous, late, conflict or rejected.
        score: 1.0 is the threshold; None where the reading was not scored.
        reason: why it is anomalous.
        expected: channel to low, mid and high of what was expected.
        attribution: channel to its share of the score.
        replayed: whether this is the answer that the reading got when it was first applied.
        error: why it was rejected or is in conflict.
    """

    stream: str
    status: str
    timestamp: str | None = None
    seq: int | None = None
    score: float | None = None
    reason: str | None = None
    expected: Mapping[str, Sequence[float]] = field(default_factory=dict)
    attribution: Mapping[str, float] = field(default_factory=dict)
    model: str | None = None
    replayed: bool = False
    error: str | None = None

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Result:
        """Read one result of a reply. Raises KeyError or TypeError for what is none."""
        return cls(
            stream=str(found["stream"]),
            status=str(found["status"]),
            timestamp=found.get("timestamp"),
            seq=found.get("seq"),
            score=found.get("score"),
            reason=found.get("reason"),
            expected=found.get("expected") or {},
            attribution=found.get("attribution") or {},
            model=found.get("model"),
            replayed=bool(found.get("replayed")),
            error=found.get("error"),
        )


def body_of(readings: Sequence[Reading]) -> bytes:
    """The body of a request."""
    return json.dumps([reading.as_json() for reading in readings], allow_nan=False).encode()


def _number(value: object, channel: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, str | bytes | bool):
        raise TypeError(f"{channel}: {value!r:.40} is not a number")
    number = float(value)  # type: ignore[arg-type]
    if math.isinf(number):
        raise ValueError(f"{channel}: {number} is infinite; expected a finite number, or None where it is missing")
    return None if math.isnan(number) else number


def _seconds(timestamp: datetime | float | None, stream: str) -> float:
    if timestamp is None:
        return round(time.time(), 3)
    if isinstance(timestamp, datetime):
        if timestamp.tzinfo is None:
            raise ValueError(f"{stream}: the time {timestamp} has no zone; expected one, datetime.UTC say")
        return timestamp.timestamp()
    return float(timestamp)
