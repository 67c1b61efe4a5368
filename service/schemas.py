"""What travels over HTTP: readings in, results out; with units and limits.

A body is decoded in one pass, by types made for the model's channels, into columns: no dictionary and no array for a
single reading. Only when that fails is it taken apart reading by reading, so that one bad reading is rejected with its
reason and its neighbours are scored.
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
import orjson
from numpy.typing import NDArray

from service.errors import BadRequest, TooLarge

STREAM_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
LARGEST_VALUE: Final = float(np.finfo(np.float32).max)
LARGEST_SEQ: Final = 2**53
NO_TIME: Final = -1
NO_SEQ: Final = -1
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_SHOWN: Final = 64
_LATEST_S: Final = 1e15
"""Unix seconds that can still be milliseconds in 64 bits; the clock's own bound is far below."""

_BAND = {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}


class SentReading(msgspec.Struct, forbid_unknown_fields=True):
    """A reading as it is sent; the fields' meanings are in the README and below."""

    values: Annotated[
        dict[str, float | None] | float,
        msgspec.Meta(description="channel to value, null = missing; or one number for one channel"),
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
    expected: Annotated[
        Any,
        msgspec.Meta(
            description="channel to [low, mid, high]",
            extra_json_schema={"type": ["object", "null"], "additionalProperties": _BAND},
        ),
    ] = None
    attribution: Annotated[
        Any,
        msgspec.Meta(
            description="channel to its share in the score",
            extra_json_schema={"type": ["object", "null"], "additionalProperties": {"type": "number"}},
        ),
    ] = None
    reason: str | None = None
    model: str | None = None
    replayed: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Readings:
    """N readings that can be scored, in columns.

    Attributes:
        streams: their streams.
        timestamps_ms: Unix time, NO_TIME where the sender gave none.
        seqs: the sender's count, NO_SEQ where there is none.
        values: (N, C) float32 in the model's order of channels, NaN where missing.
    """

    streams: list[str]
    timestamps_ms: list[int]
    seqs: list[int]
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.streams)

    def part(self, start: int, stop: int) -> Readings:
        """The readings from `start` up to, not including, `stop`."""
        if start == 0 and stop == len(self):
            return self
        cut = slice(start, stop)
        return Readings(self.streams[cut], self.timestamps_ms[cut], self.seqs[cut], self.values[cut])

    @staticmethod
    def join(parts: Sequence[Readings]) -> Readings:
        """Several requests' readings as one batch, in order."""
        if len(parts) == 1:
            return parts[0]
        return Readings(
            [stream for part in parts for stream in part.streams],
            [moment for part in parts for moment in part.timestamps_ms],
            [seq for part in parts for seq in part.seqs],
            np.concatenate([part.values for part in parts]),
        )


_encoder = msgspec.json.Encoder()


def _numbers(values: NDArray[np.float32]) -> bytes:
    """An array as JSON, written by orjson straight from memory: no Python number for any of them."""
    return orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)


def encode_results(results: Sequence[Result], form: str) -> bytes:
    """Results in the form of the request: `array`, `lines` (NDJSON) or `object`."""
    if form == "object":
        return _encoder.encode(results[0])
    return _encoder.encode_lines(results) if form == "lines" else _encoder.encode(results)


class Wire:
    """Bodies to readings, for one model's channels.

    msgspec compiles the types made here, so a body of good readings is checked in C: names of channels, types of all
    fields, the range of `seq`.
    """

    def __init__(self, channels: tuple[str, ...], future_ms: int, most: int) -> None:
        """`future_ms`: how far ahead a timestamp may be. `most`: readings allowed in a request."""
        self._channels = channels
        self._future_ms = future_ms
        self._most = most
        names = [f"c{at}" for at in range(len(channels))]
        rename = dict(zip(names, channels, strict=True))
        values = msgspec.defstruct(
            "Values", [(name, float | None, None) for name in names], rename=rename, forbid_unknown_fields=True
        )
        seq = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_SEQ)]
        self._reading = msgspec.defstruct(
            "Reading",
            [
                ("values", values | float),
                ("stream", str, ""),
                ("timestamp", str | float | None, None),
                ("seq", seq | None, None),
            ],
            forbid_unknown_fields=True,
        )
        self._one = msgspec.json.Decoder(self._reading)
        self._many = msgspec.json.Decoder(list[self._reading])  # type: ignore[name-defined]
        named = [_encoder.encode(channel).replace(b"%", b"%%") for channel in channels]
        self._bands = b"{" + b",".join(b"%b:[%%b]" % name for name in named) + b"}"
        self._shares = b"{" + b",".join(b"%b:%%b" % name for name in named) + b"}"

    def read(
        self, body: bytes, lines: bool, stream: str | None, now_ms: int
    ) -> tuple[list[Result | None], Readings, str]:
        """Decode and check a body.

        Args:
            body: JSON (an array of readings, or one) or, with `lines`, NDJSON.
            stream: that of the path, for readings that name none; a reading that names another is rejected.
            now_ms: the service's clock.

        Returns:
            A rejection, or None for a reading that can be scored, in the order sent; those readings; and the form of
            the body, for `encode_results`.

        Raises:
            BadRequest: not JSON at all, or empty.
            TooLarge: more readings than allowed.
        """
        if not body.strip():
            raise BadRequest("the body is empty; expected a JSON array of readings, or NDJSON")
        if lines:
            sent = [self._line(number, line) for number, line in enumerate(body.splitlines(), 1) if line.strip()]
            form = "lines"
        else:
            sent, form = self._json(body)
        if len(sent) > self._most:
            raise TooLarge(f"{len(sent)} readings in one request; at most {self._most} are taken: send them in several")
        return *self._columns(sent, stream, now_ms), form

    def bands(self, expected: NDArray[np.float32]) -> list[msgspec.Raw]:
        """(B, C, 3) to the JSON of each reading's `expected`: the shortest decimals that mean the same float32."""
        rows = _numbers(expected)[3:-3].split(b"]],[[")
        return [msgspec.Raw(self._bands % tuple(row.split(b"],["))) for row in rows]

    def shares(self, attribution: NDArray[np.float32]) -> list[msgspec.Raw]:
        """(B, C) to the JSON of each reading's `attribution`."""
        return [msgspec.Raw(self._shares % tuple(row.split(b","))) for row in _numbers(attribution)[2:-2].split(b"],[")]

    def _json(self, body: bytes) -> tuple[list[Any], str]:
        is_array = body.lstrip()[:1] == b"["
        try:
            if is_array:
                return self._many.decode(body), "array"
            return [self._one.decode(body)], "object"
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
        content = _lenient_json(body)
        if isinstance(content, list):
            return [self._convert(item) for item in content], "array"
        if isinstance(content, dict):
            return [self._convert(content)], "object"
        raise BadRequest(f"the body is {_kind(content)}; expected an array of readings, or one reading as an object")

    def _line(self, number: int, line: bytes) -> Any:
        try:
            return self._one.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
        try:
            return self._convert(_lenient_json(line))
        except BadRequest as error:
            return rejected(None, None, None, f"line {number}: {error}")

    def _convert(self, content: Any) -> Any:
        """One decoded item to a reading, or to a Result that says which field is wrong and what was expected."""
        problem = _problem(content, self._channels)
        if problem is None:
            given = {name: value for name, value in content.items() if value is not None}
            try:
                return msgspec.convert(given, self._reading)
            except msgspec.ValidationError as error:
                problem = str(error)
        fields = content if isinstance(content, dict) else {}
        stream, seq = fields.get("stream"), fields.get("seq")
        stream = stream if isinstance(stream, str) else None
        seq = seq if isinstance(seq, int) and not isinstance(seq, bool) else None
        return rejected(stream, None, seq, problem)

    def _columns(self, sent: list[Any], path: str | None, now_ms: int) -> tuple[list[Result | None], Readings]:
        """Separate what can be scored from what cannot, and lay it out in columns."""
        results: list[Result | None] = [None] * len(sent)
        streams: list[str] = []
        moments: list[int] = []
        seqs: list[int] = []
        rows: list[tuple[float | None, ...]] = []
        latest = now_ms + self._future_ms
        is_name, astuple, one_channel = STREAM_NAME.fullmatch, msgspec.structs.astuple, len(self._channels) == 1
        for place, reading in enumerate(sent):
            if type(reading) is Result:
                results[place] = reading
                continue
            stream, moment, seq, values = reading.stream, reading.timestamp, reading.seq, reading.values
            error = None
            if path is not None:
                if stream and stream != path:
                    error = f"stream is {_show(stream)} but the path says {_show(path)}; expected the same or none"
                stream = path
            if error is None and not is_name(stream):
                error = (
                    f"stream is {_show(stream)}; expected 1 to 128 letters, digits, '.', '_' or '-', "
                    "the first a letter or digit"
                )
            if moment is None:
                moment_ms: int | str = NO_TIME
            else:
                moment_ms = _timestamp_ms(moment)
                if type(moment_ms) is str:
                    error = error or moment_ms
                elif moment_ms > latest:  # type: ignore[operator]
                    error = error or _too_far(moment, moment_ms, now_ms, self._future_ms)
            if type(values) is float:
                if not one_channel:
                    expected = f"{len(self._channels)} channels: {_list(self._channels)}"
                    error = error or f"values is one number; this model has {expected}"
                values = (values,)
            else:
                values = astuple(values)
            if error is not None:
                shown = None if moment is None else str(moment)
                results[place] = rejected(stream, shown, seq, error)
                continue
            streams.append(stream)
            moments.append(moment_ms)  # type: ignore[arg-type]
            seqs.append(NO_SEQ if seq is None else seq)
            rows.append(values)
        table = np.array(rows, np.float64).reshape(len(rows), len(self._channels))  # None becomes NaN
        if (np.abs(table) > LARGEST_VALUE).any():
            with np.errstate(over="ignore"):
                readings = Readings(streams, moments, seqs, table.astype(np.float32))
            return self._without_too_large(results, readings, table)
        # adding 0 makes -0.0 the same reading as 0.0
        return results, Readings(streams, moments, seqs, table.astype(np.float32) + np.float32(0))

    def _without_too_large(
        self, results: list[Result | None], readings: Readings, table: NDArray[np.float64]
    ) -> tuple[list[Result | None], Readings]:
        """Reject the readings with a value that float32 cannot hold, and keep the others."""
        too_large = np.abs(table) > LARGEST_VALUE
        accepted = iter([place for place, result in enumerate(results) if result is None])
        kept = []
        for row, place in enumerate(accepted):
            if not too_large[row].any():
                kept.append(row)
                continue
            at = int(too_large[row].argmax())
            error = f"values.{_clip(self._channels[at])} is {table[row, at]:g}, {_TOO_LARGE}"
            seq = readings.seqs[row]
            results[place] = rejected(readings.streams[row], None, None if seq == NO_SEQ else seq, error)
        return results, Readings(
            [readings.streams[row] for row in kept],
            [readings.timestamps_ms[row] for row in kept],
            [readings.seqs[row] for row in kept],
            table[kept].astype(np.float32) + np.float32(0),
        )


_TOO_LARGE = "more than a float32 can hold; expected at most 3.4e38"


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


def _problem(content: Any, channels: tuple[str, ...]) -> str | None:
    """What is wrong with one decoded item, or None if it is a reading."""
    if not isinstance(content, dict):
        return f"a reading is an object; this is {_kind(content)}"
    if "values" not in content:
        return "values is absent; expected an object of channels, or a number"
    unknown = sorted(set(content) - {"stream", "timestamp", "seq", "values"})
    if unknown:
        return f"{_show(unknown[0])} is not a field of a reading; expected stream, timestamp, seq, values"
    seq = content.get("seq")
    problem = (
        _field_problem("stream", content.get("stream"), (str,), "text")
        or _field_problem(
            "timestamp", content.get("timestamp"), (str, int, float, type(None)), "RFC 3339 text or Unix seconds"
        )
        or _field_problem("seq", seq, (int, type(None)), "a whole number or null")
        or _values_problem(content["values"], channels)
    )
    timestamp = content.get("timestamp")
    if problem is None and isinstance(timestamp, int) and not 0 <= timestamp < _LATEST_S:
        return f"timestamp is {_show(timestamp)}; expected Unix seconds, 0 or later"
    if problem is None and seq is not None and not 0 <= seq <= LARGEST_SEQ:
        return f"seq is {seq!s:.64}; expected 0 to 2^53"
    return problem


def _field_problem(name: str, value: Any, types: tuple[type, ...], expected: str) -> str | None:
    if name == "stream" and value is None:
        return None
    if isinstance(value, _NotJson):
        return f"{name} is {value.name}, which is no number in JSON; expected {expected}"
    if isinstance(value, bool) or not isinstance(value, types):
        return f"{name} is {_kind(value)}; expected {expected}"
    return None


def _values_problem(values: Any, channels: tuple[str, ...]) -> str | None:
    named = values.items() if isinstance(values, dict) else [("", values)]
    for channel, value in named:
        name = f"values.{_clip(channel)}" if channel else "values"
        if isinstance(values, dict) and channel not in channels:
            return f"{name} is not a channel of this model; expected {_list(channels)}"
        types = (int, float, type(None)) if channel else (int, float)
        problem = _field_problem(name, value, types, "a number or null")
        if problem is None and isinstance(value, int) and abs(value) > LARGEST_VALUE:
            problem = f"{name} is {_TOO_LARGE}"
        if problem:
            return problem
    return None


def _too_far(moment: object, moment_ms: Any, now_ms: int, future_ms: int) -> str:
    return (
        f"timestamp is {_show(moment)}, {(moment_ms - now_ms) / 1000:.0f} s ahead of this service's clock; at most "
        f"{future_ms / 1000:g} s are taken (milliseconds sent as seconds, or a wrong clock?)"
    )


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
    if not 0 <= seconds < _LATEST_S:
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
