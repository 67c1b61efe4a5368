"""ReadingDecoder: readings as JSON objects, one model's channels, to columns; shared by the doors for JSON and NDJSON.

Items are decoded by types made for the model's channels, into columns: no dictionary and no array for a single reading.
Only what that refuses is looked at field by field, so that one bad reading is rejected with its reason and its
neighbours are scored.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final
from uuid import uuid4

import msgspec
import numpy as np

from gatewatch.service.core.outcomes import Refused, clip, rejected
from gatewatch.service.core.readings import LARGEST_SEQ, NO_SEQ, NO_TIME, Readings
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.doors.door import Context, Decoded
from gatewatch.service.doors.json_parts import PART_BYTES, TooLong
from gatewatch.service.doors.json_problems import (
    LARGEST_VALUE,
    LATEST_S,
    NOT_READ,
    TOO_LARGE,
    lenient_json,
    listed,
    problem_of,
    show,
    too_far,
    unix_ms,
)
from gatewatch.service.errors import BadRequest, TooLarge

DecodedReading = Any
"""One item of a body: a reading, of the type that ReadingDecoder makes for its channels; or why it is Refused."""

PART_READINGS: Final = 256
"""Readings taken apart in one go; 10 µs each (measured)."""

NONE: Final[dict[int, Refused]] = {}

FEW: Final = 8
"""Items; so few are checked one by one, sooner than column by column."""


class SentReading(msgspec.Struct, forbid_unknown_fields=True):
    """A reading as it is sent; the fields' meanings are in docs/http-api.md and below."""

    values: Annotated[
        dict[str, float | None] | float,
        msgspec.Meta(description="channel to value, null = missing; or one number for one channel"),
    ]
    stream: Annotated[str | None, msgspec.Meta(description="letters, digits, . _ -; at most 128")] = None
    timestamp: Annotated[
        str | float | None, msgspec.Meta(description="RFC 3339 with zone, or Unix seconds; absent: time of arrival")
    ] = None
    seq: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=LARGEST_SEQ)] | None,
        msgspec.Meta(description="the sender's own count from 0; identifies the reading"),
    ] = None


astuple = msgspec.structs.astuple


def _is_escaped(channel: str) -> bool:
    """Whether JSON escapes something in a name. msgspec has no field of such a name: here it has one made up.

    No reading has that name: those with such a channel are taken one by one.
    """
    return json.dumps(channel, ensure_ascii=False) != f'"{channel}"'


class ReadingDecoder:
    """Items to columns, for one model's channels.

    msgspec compiles the types made here, so a body of good readings is checked in C: names of channels, types of all
    fields, the range of `seq`.

    Attributes:
        one: decodes a reading from JSON.
        many: decodes an array of them.
        reading_bytes: that a reading may have, whatever its form.
    """

    def __init__(self, channels: tuple[str, ...], future_ms: int, most: int) -> None:
        """`future_ms`: how far ahead a timestamp may be. `most`: readings allowed in a request."""
        self._channels: tuple[str, ...] | None = channels
        self._future_ms = future_ms
        self.most = most
        names = [f"c{at}" for at in range(len(channels))]
        self._instead = {channel: uuid4().hex for channel in channels if _is_escaped(channel)}
        rename = {name: self._instead.get(channel, channel) for name, channel in zip(names, channels, strict=True)}
        values = msgspec.defstruct(
            "Values", [(name, float | None, None) for name in names], rename=rename, forbid_unknown_fields=True
        )
        self._values = values
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
        self.one = msgspec.json.Decoder(self._reading)
        self.many = msgspec.json.Decoder(list[self._reading])  # type: ignore[name-defined]
        self.reading_bytes = max(PART_BYTES, 2 * sum(len(json.dumps(name)) + 64 for name in channels))

    def check_count(self, readings: int, at_least: bool = False) -> None:
        """Raise TooLarge for more readings than a request may have."""
        if readings > self.most:
            count = f"more than {self.most}" if at_least else readings
            raise TooLarge(f"{count} readings in one request; at most {self.most} are taken: send them in several")

    def all_readings(self, content: bytes) -> list[DecodedReading] | None:
        """The readings of an array without a flaw; None where there is one."""
        try:
            readings: list[DecodedReading] = self.many.decode(content)
        except NOT_READ:
            return None
        return readings

    def line(self, number: int, line: bytes | TooLong) -> DecodedReading:
        """A line of NDJSON."""
        if isinstance(line, TooLong):
            return rejected(None, None, None, f"line {number}: {line}")
        try:
            return self.one.decode(line)
        except NOT_READ:
            pass
        try:
            return self.convert(lenient_json(line))
        except BadRequest as error:
            return rejected(None, None, None, f"line {number}: {error}")

    def convert(self, content: Any) -> DecodedReading:
        """One item of JSON to a reading, or to why it is refused: which field is wrong and what was expected."""
        if isinstance(content, TooLong):
            return rejected(None, None, None, str(content))
        problem = problem_of(content, self._channels)
        if problem is None:
            given = {name: value for name, value in content.items() if value is not None}
            if self._instead and isinstance(given["values"], dict):
                given["values"] = {self._instead.get(name, name): value for name, value in given["values"].items()}
            try:
                return msgspec.convert(given, self._reading)
            except msgspec.ValidationError as error:
                problem = str(error)
        return self.refused(content, problem)

    @staticmethod
    def refused(content: Any, problem: str) -> Refused:
        """An item of JSON, as far as it can be shown, and what is wrong with it."""
        fields = content if isinstance(content, dict) else {}
        stream, seq = fields.get("stream"), fields.get("seq")
        stream = stream if isinstance(stream, str) else None
        seq = seq if isinstance(seq, int) and not isinstance(seq, bool) else None
        return rejected(stream, None, seq, problem)

    def columns(self, items: list[DecodedReading], context: Context) -> Decoded:
        """Lay items out in columns, apart from what cannot be scored."""
        if context.stream is not None:
            items = [_of_stream(item, context.stream) for item in items]
        if len(items) == 1 and (decoded := self._one_good(items[0], context)) is not None:
            return decoded
        if len(items) > FEW and (decoded := self._all_good(items, context)) is not None:
            return decoded
        return self._one_by_one(items, context)

    def _one_good(self, reading: DecodedReading, context: Context) -> Decoded | None:
        """A reading without a flaw and with a time, the usual request; None where a closer look is needed."""
        if type(reading) is Refused:
            return None
        key, moment, values = context.names.known.get(reading.stream), reading.timestamp, reading.values
        if key is None or type(moment) is not float or type(values) is float or not 0 <= moment < LATEST_S:
            return None
        moment_ms = round(moment * 1000)
        if moment_ms > context.now_ms + self._future_ms:
            return None
        row = astuple(values)
        sent = [value for value in row if value is not None] if None in row else row
        if not all(map(LARGEST_VALUE.__ge__, map(abs, sent))):
            return None
        seq = reading.seq
        return Decoded(Readings(context.model, [key], [moment_ms], [NO_SEQ if seq is None else seq], [row]), NONE)

    def _all_good(self, items: list[DecodedReading], context: Context) -> Decoded | None:
        """Readings without a flaw, checked column by column; None where a closer look is needed."""
        known = context.names.known
        try:
            streams = [reading.stream for reading in items]
            moments = [reading.timestamp for reading in items]
            rows = [astuple(reading.values) for reading in items]
            try:
                keys = [known[stream] for stream in streams]
            except KeyError:
                keys = [context.names.key(stream) for stream in streams]  # type: ignore[misc]
        except (AttributeError, TypeError):  # a rejection among them; or one number instead of named values
            return None
        if set(map(type, moments)) != {float} or None in keys:
            return None
        first, last = min(moments), max(moments)
        if first < 0 or last >= LATEST_S or round(last * 1000) > context.now_ms + self._future_ms:
            return None
        if np.count_nonzero(np.abs(np.array(rows, np.float64)) > LARGEST_VALUE):  # None becomes NaN
            return None
        times_ms: list[int] = np.rint(np.array(moments) * 1000).astype(np.int64).tolist()
        seqs = [NO_SEQ if reading.seq is None else reading.seq for reading in items]
        return Decoded(Readings(context.model, keys, times_ms, seqs, rows), NONE)

    def _one_by_one(self, items: list[DecodedReading], context: Context) -> Decoded:
        """Separate what can be scored from what cannot."""
        refused: dict[int, Refused] = {}
        streams: list[StreamKey] = []
        moments: list[int] = []
        seqs: list[int] = []
        names: list[tuple[str, ...] | None] = []
        rows: list[tuple[float | None, ...]] = []
        for place, reading in enumerate(items):
            if type(reading) is Refused:
                refused[place] = reading
                continue
            key, moment, values = context.names.key(reading.stream), reading.timestamp, reading.values
            moment_ms = NO_TIME if moment is None else unix_ms(moment)
            row = self._row(values)
            if key is None:
                error: str | None = (
                    f"stream is {show(reading.stream)}; expected 1 to 128 letters, digits, '.', '_' or '-', "
                    "the first a letter or digit"
                )
            elif type(moment_ms) is str:
                error = moment_ms
            elif moment_ms > context.now_ms + self._future_ms:  # type: ignore[operator]
                error = too_far(moment, moment_ms, context.now_ms, self._future_ms)
            else:
                error = row if isinstance(row, str) else None
            if error is not None or key is None or isinstance(row, str):
                shown = None if moment is None else str(moment)
                refused[place] = rejected(reading.stream, shown, reading.seq, str(error))
                continue
            channels, sent = row
            for at, value in enumerate(sent):
                if value is not None and not -LARGEST_VALUE <= value <= LARGEST_VALUE:
                    name = "" if channels is None else f".{clip(channels[at])}"
                    error = f"values{name} is {value:g}, {TOO_LARGE}"
                    refused[place] = rejected(reading.stream, None, reading.seq, error)
                    break
            if error is not None:
                continue
            streams.append(key)
            moments.append(moment_ms)  # type: ignore[arg-type]
            seqs.append(NO_SEQ if reading.seq is None else reading.seq)
            rows.append(sent)
            names.append(channels)
        column = names if self._channels is None else None
        return Decoded(Readings(context.model, streams, moments, seqs, rows, column), refused)

    def _row(self, values: Any) -> tuple[tuple[str, ...] | None, tuple[float | None, ...]] | str:
        """The channels and the values of a reading, or why it has none."""
        channels = self._channels or ()
        if type(values) is not float:
            return channels, astuple(values)
        if len(channels) != 1:
            return f"values is one number; this model has {len(channels)} channels: {listed(channels)}"
        return channels, (values,)


def _of_stream(item: DecodedReading, stream: str) -> DecodedReading:
    """An item as one of the stream in the path."""
    if type(item) is not Refused:
        if item.stream and item.stream != stream:
            error = f"stream is {show(item.stream)} but the path says {show(stream)}; expected the same or none"
            return rejected(stream, None, item.seq, error)
        item.stream = stream
    return item
