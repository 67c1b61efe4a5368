"""What travels over HTTP: readings in, results out; with units and limits.

A body is decoded in one pass by msgspec. Only when that fails is it taken apart reading by reading, so that one bad
reading is rejected with its reason and its neighbours are scored.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.errors import BadRequest, TooLarge

STREAM_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
LARGEST_VALUE: Final = float(np.finfo(np.float32).max)
LARGEST_SEQ: Final = 2**53
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_SHOWN: Final = 64

Values = dict[str, float | None] | float


class SentReading(msgspec.Struct, forbid_unknown_fields=True):
    """A reading as it is sent. See the API's page at /docs for the meaning of each field."""

    values: Annotated[
        Values, msgspec.Meta(description="channel to value, null = missing; or one number for one channel")
    ]
    stream: Annotated[str, msgspec.Meta(description="letters, digits, . _ -; at most 128")] = ""
    timestamp: Annotated[
        str | float | None, msgspec.Meta(description="RFC 3339 with zone, or Unix seconds; absent: time of arrival")
    ] = None
    seq: Annotated[int | None, msgspec.Meta(description="the sender's own count from 0; identifies the reading")] = None


class Result(msgspec.Struct):
    """What became of one reading."""

    stream: str | None
    timestamp: str | None
    seq: int | None
    status: str
    score: float | None = None
    expected: dict[str, list[float]] | None = None
    attribution: dict[str, float] | None = None
    reason: str | None = None
    model: str | None = None
    replayed: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Reading:
    """A reading that can be scored.

    Attributes:
        stream: its stream.
        timestamp_ms: Unix time, None where the sender gave none.
        seq: the sender's count, -1 where there is none.
        values: (C,) float32 in the model's order, NaN where missing.
    """

    stream: str
    timestamp_ms: int | None
    seq: int
    values: NDArray[np.float32]


_reading = msgspec.json.Decoder(SentReading)
_readings = msgspec.json.Decoder(list[SentReading])
_encoder = msgspec.json.Encoder()


def encode_results(results: Sequence[Result], form: str) -> bytes:
    """Results in the form of the request: `array`, `lines` (NDJSON) or `object`."""
    if form == "object":
        return _encoder.encode(results[0])
    return _encoder.encode_lines(results) if form == "lines" else _encoder.encode(results)


def decode_readings(body: bytes, lines: bool, most: int) -> tuple[list[SentReading | Result], str]:
    """Decode a body; a reading that is not one becomes a rejected Result in its place.

    Args:
        body: JSON (an array of readings, or one) or, with `lines`, NDJSON.
        most: readings allowed in a request.

    Returns:
        The readings in the order sent, and the form of the body, for `encode_results`.

    Raises:
        BadRequest: not JSON at all, or empty.
        TooLarge: more than `most` readings.
    """
    if not body.strip():
        raise BadRequest("the body is empty; expected a JSON array of readings, or NDJSON")
    if lines:
        sent = [_decode_line(number, line) for number, line in enumerate(body.splitlines(), 1) if line.strip()]
        form = "lines"
    else:
        sent, form = _decode_json(body)
    if len(sent) > most:
        raise TooLarge(f"{len(sent)} readings in one request; at most {most} are taken: send them in several")
    return sent, form


def _decode_json(body: bytes) -> tuple[list[SentReading | Result], str]:
    is_array = body.lstrip()[:1] == b"["
    try:
        if is_array:
            return list(_readings.decode(body)), "array"
        return [_reading.decode(body)], "object"
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    content = _lenient_json(body)
    if isinstance(content, list):
        return [_convert(item) for item in content], "array"
    if isinstance(content, dict):
        return [_convert(content)], "object"
    raise BadRequest(f"the body is {_kind(content)}; expected an array of readings, or one reading as an object")


def _decode_line(number: int, line: bytes) -> SentReading | Result:
    try:
        return _reading.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    try:
        return _convert(_lenient_json(line))
    except BadRequest as error:
        return rejected(None, None, None, f"line {number}: {error}")


class _NotJson(float):
    """A number JSON does not have (NaN, Infinity, or 1e400), kept by name so that the reading can say so."""

    name: str


def _constant(name: str) -> _NotJson:
    number = _NotJson(math.nan)
    number.name = name
    return number


def _number(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _constant(text[:_SHOWN])


def _lenient_json(body: bytes) -> Any:
    """JSON as Python reads it, with NaN and infinities kept apart, so that only their readings are rejected."""
    try:
        return json.loads(body, parse_constant=_constant, parse_float=_number)
    except RecursionError:
        raise BadRequest("the body is nested too deeply; expected an array of readings") from None
    except ValueError as error:  # also UnicodeDecodeError, and integers of thousands of digits
        raise BadRequest(f"the body is not JSON: {error}") from None


def _convert(content: Any) -> SentReading | Result:
    """One decoded item to a reading, or to a Result that says which field is wrong and what was expected."""
    if not isinstance(content, dict):
        return rejected(None, None, None, f"a reading is an object; this is {_kind(content)}")
    stream, seq = content.get("stream"), content.get("seq")
    stream = stream if isinstance(stream, str) else None
    seq = seq if isinstance(seq, int) and not isinstance(seq, bool) else None
    if "values" not in content:
        return rejected(stream, None, seq, "values is absent; expected an object of channels, or a number")
    unknown = sorted(set(content) - {"stream", "timestamp", "seq", "values"})
    if unknown:
        return rejected(
            stream,
            None,
            seq,
            f"{_show(unknown[0])} is not a field of a reading; expected stream, timestamp, seq, values",
        )
    problem = (
        _field_problem("stream", content.get("stream"), (str,), "text")
        or _field_problem(
            "timestamp", content.get("timestamp"), (str, int, float, type(None)), "RFC 3339 text or Unix seconds"
        )
        or _field_problem("seq", content.get("seq"), (int, type(None)), "a whole number or null")
        or _values_problem(content["values"])
    )
    if problem:
        return rejected(stream, None, seq, problem)
    return SentReading(
        values=content["values"],
        stream=content.get("stream") or "",
        timestamp=content.get("timestamp"),
        seq=content.get("seq"),
    )


def _field_problem(name: str, value: Any, types: tuple[type, ...], expected: str) -> str | None:
    if name == "stream" and value is None:
        return None
    if isinstance(value, _NotJson):
        return f"{name} is {value.name}, which is no number in JSON; expected {expected}"
    if isinstance(value, bool) or not isinstance(value, types):
        return f"{name} is {_kind(value)}; expected {expected}"
    return None


def _values_problem(values: Any) -> str | None:
    named = values.items() if isinstance(values, dict) else [("", values)]
    for channel, value in named:
        name = f"values.{_clip(channel)}" if channel else "values"
        problem = _field_problem(name, value, (int, float, type(None)) if channel else (int, float), "a number or null")
        if problem is None and isinstance(value, int) and abs(value) > LARGEST_VALUE:
            problem = f"{name} is more than a float32 can hold; expected at most 3.4e38"
        if problem:
            return problem
    return None


def accept(sent: SentReading, channels: tuple[str, ...], now_ms: int, future_ms: int) -> Reading | Result:
    """Check one reading against the model's channels and the clock.

    Returns:
        The reading ready to be scored, or a rejected Result that names the field, what came and what was expected.
    """
    if not STREAM_NAME.fullmatch(sent.stream):
        return _reject(
            sent,
            f"stream is {_show(sent.stream)}; expected 1 to 128 letters, digits, '.', '_' or '-', "
            "the first a letter or digit",
        )
    timestamp_ms: int | None = None
    if sent.timestamp is not None:
        moment = _timestamp_ms(sent.timestamp)
        if isinstance(moment, str):
            return _reject(sent, moment)
        if moment > now_ms + future_ms:
            return _reject(
                sent,
                f"timestamp is {_show(sent.timestamp)}, {(moment - now_ms) / 1000:.0f} s ahead of this service's "
                f"clock; at most {future_ms / 1000:g} s are taken (milliseconds sent as seconds, or a wrong clock?)",
            )
        timestamp_ms = moment
    if sent.seq is not None and not 0 <= sent.seq <= LARGEST_SEQ:
        return _reject(sent, f"seq is {sent.seq!s:.64}; expected 0 to 2^53")
    values = _channel_values(sent.values, channels)
    if isinstance(values, str):
        return _reject(sent, values)
    return Reading(sent.stream, timestamp_ms, -1 if sent.seq is None else sent.seq, values)


def _channel_values(values: Values, channels: tuple[str, ...]) -> NDArray[np.float32] | str:
    """(C,) float32 in the order of `channels`, NaN where missing; or what is wrong."""
    if not isinstance(values, dict):
        if len(channels) != 1:
            return f"values is one number; this model has {len(channels)} channels: {_list(channels)}"
        values = {channels[0]: values}
    if not values:
        return f"values is empty; expected at least one of {_list(channels)} (null where missing)"
    row = np.fromiter(
        (math.nan if (value := values.get(channel)) is None else value for channel in channels),
        np.float64,
        len(channels),
    )
    if any(channel not in channels for channel in values):
        unknown = next(channel for channel in values if channel not in channels)
        return f"values.{_clip(unknown)} is not a channel of this model; expected {_list(channels)}"
    too_large = np.abs(row) > LARGEST_VALUE
    if too_large.any():
        at = int(too_large.argmax())
        return f"values.{channels[at]} is {row[at]:g}, more than a float32 can hold; expected at most 3.4e38"
    return row.astype(np.float32) + np.float32(0.0)  # -0.0 becomes 0.0: the same reading


def _timestamp_ms(timestamp: str | float) -> int | str:
    """Unix milliseconds, or what is wrong with the timestamp."""
    if isinstance(timestamp, str):
        if not _TIMESTAMP.fullmatch(timestamp):
            return (
                f"timestamp is {_show(timestamp)}; expected RFC 3339 with zone (2026-05-04T10:00:00Z) or Unix seconds"
            )
        try:
            seconds = datetime.fromisoformat(timestamp.upper()).timestamp()
        except (ValueError, OverflowError):
            return f"timestamp is {_show(timestamp)}; there is no such time"
    else:
        seconds = timestamp
    if not 0 <= seconds < 1e15:
        return f"timestamp is {_show(timestamp)}; expected Unix seconds, 0 or later"
    return round(seconds * 1000)


def format_time(timestamp_ms: int) -> str:
    """Unix milliseconds as RFC 3339 in UTC, with milliseconds where there are any."""
    moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds" if timestamp_ms % 1000 else "seconds").replace("+00:00", "Z")


def rejected(stream: str | None, timestamp: str | None, seq: int | None, error: str) -> Result:
    """The result of a reading that cannot be scored; nothing of its stream has changed."""
    if seq is not None and not 0 <= seq <= LARGEST_SEQ:
        seq = None  # JSON readers elsewhere would round it
    return Result(_clip(stream), _clip(timestamp), seq, "rejected", error=error)


def _reject(sent: SentReading, error: str) -> Result:
    timestamp = sent.timestamp if sent.timestamp is None else str(sent.timestamp)
    return rejected(sent.stream, timestamp, sent.seq, error)


def _clip(text: str | None) -> str | None:
    """At most 64 characters, printable ASCII: a rejected name is echoed, never trusted."""
    if text is None:
        return None
    plain = text[: _SHOWN + 1].encode("ascii", "backslashreplace").decode()
    plain = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in plain)
    return plain if len(text) <= _SHOWN else plain[:_SHOWN] + "…"


def _show(value: object) -> str:
    return f"'{_clip(value)}'" if isinstance(value, str) else str(value)[:_SHOWN]


def _list(channels: Sequence[str]) -> str:
    shown = ", ".join(channels[:12])
    return shown if len(channels) <= 12 else f"{shown}, … ({len(channels)} in all)"


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "text", bool: "true or false", type(None): "null"}
    shown = "" if isinstance(value, dict | list) or value is None else f" ({_show(value)})"
    return names.get(type(value), "a number") + shown
