"""What travels in: bodies to readings, with units and limits.

A body is decoded in one pass, by types made for the model's channels, into columns: no dictionary and no array for a
single reading. Only when that fails is it taken apart reading by reading, so that one bad reading is rejected with its
reason and its neighbours are scored. What is large, or has a flaw, is decoded in parts of some milliseconds each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from gatewatch.service.core.readings import NO_SEQ, NO_TIME, Readings
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.doors.json_parts import Array, Body, TooLong, lines_of, opened
from gatewatch.service.doors.json_problems import (
    LARGEST_VALUE,
    LATEST_S,
    TOO_LARGE,
    kind,
    lenient_json,
    listed,
    problem_of,
    show,
    too_far,
    unix_ms,
)
from gatewatch.service.doors.json_results import LARGEST_SEQ, Result, clip, rejected
from gatewatch.service.errors import BadRequest, TooLarge

Sent = Any
"""One item of a body: a reading, of the type that Wire makes for its channels; or the Result that rejects it."""

STREAM_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
REMEMBERED_NAMES: Final = 65_536

PART_BYTES: Final = 65_536
"""Of a body, decoded in one go; more where the names of many channels make a reading longer."""
PART_READINGS: Final = 256
"""Readings taken apart in one go; 10 µs each (measured)."""


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


class Wire:
    """Bodies to readings, for one model's channels.

    msgspec compiles the types made here, so a body of good readings is checked in C: names of channels, types of all
    fields, the range of `seq`.
    """

    def __init__(self, channels: tuple[str, ...], future_ms: int, most: int, tenant: str) -> None:
        """`future_ms`: how far ahead a timestamp may be. `most`: readings allowed in a request."""
        self._channels = channels
        self._tenant = tenant
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
        self._keys: dict[str, StreamKey] = {}
        self._part_bytes = max(PART_BYTES, 2 * sum(len(json.dumps(name)) + 64 for name in channels))

    def read(self, body: bytes, lines: bool, stream: str | None) -> tuple[list[Sent], str]:
        """Decode a body in one go, whatever it costs: what was sent, in order, for `columns`, and the body's form.

        Raises:
            BadRequest: not JSON at all, or empty.
            TooLarge: more readings than allowed.
        """
        if (read := self.read_at_once(body, lines, stream)) is not None:
            return read
        written = self.open(body, lines)
        return [reading for part in self.parts(written, stream) for reading in part], written.form

    def read_at_once(self, body: bytes, lines: bool, stream: str | None) -> tuple[list[Sent], str] | None:
        """Decode a small body of readings that are all as they should be, the usual case.

        Args:
            body: JSON (an array of readings, or one) or, with `lines`, NDJSON.
            stream: that of the path, for readings that name none; a reading that names another is rejected.

        Returns:
            What was sent, in order, for `columns`; and the form of the body, for `answers.join`. None for a body that
            is to be decoded in parts.
        """
        if len(body) > PART_BYTES:
            return None
        try:
            if lines:
                sent, form = [self._one.decode(line) for line in body.split(b"\n") if line.strip()], "lines"
            elif body.lstrip()[:1] == b"[":
                sent, form = self._many.decode(body), "array"
            else:
                sent, form = [self._one.decode(body)], "object"
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        if lines and not sent:
            return None
        self._check_count(len(sent))
        return self._of_streams(sent, stream), form

    def open(self, body: bytes, lines: bool) -> Body:
        """A body that is to be decoded in parts. Raises BadRequest."""
        return opened(body, lines, self._part_bytes)

    def parts(self, body: Body, stream: str | None) -> Iterator[list[Sent]]:
        """Decode a body part by part; each takes some milliseconds, so that others can have their turn in between.

        Raises:
            BadRequest: not JSON at all.
            TooLarge: more readings than allowed.
        """
        if body.form == "lines":
            parts = self._lines(body.content)
        elif body.form == "array":
            parts = self._array(body.content)
        else:
            parts = self._object(body.content)
        return (self._of_streams(part, stream) for part in parts)

    def columns(self, sent: list[Sent], now_ms: int) -> tuple[list[Result | None], Readings]:
        """Lay what was sent out in columns, apart from what cannot be scored.

        Args:
            sent: of any number of requests.
            now_ms: the service's clock.

        Returns:
            A rejection, or None for a reading that can be scored, in the order sent; and those readings.
        """
        readings = self._all_good(sent, now_ms)
        if readings is not None:
            return [None] * len(sent), readings
        return self._one_by_one(sent, now_ms)

    @staticmethod
    def in_order(sent: list[Sent]) -> list[int]:
        """Places of what was sent, so that each stream's readings stand in their order: by seq, or else by time."""

        def key(place: int) -> tuple[int, int]:
            reading = sent[place]
            if type(reading) is Result:
                return 3, 0
            if reading.seq is not None:
                return 0, reading.seq
            moment_ms = None if reading.timestamp is None else unix_ms(reading.timestamp)
            return (1, moment_ms) if isinstance(moment_ms, int) else (2, 0)

        return sorted(range(len(sent)), key=key)

    def _of_streams(self, sent: list[Sent], stream: str | None) -> list[Sent]:
        return sent if stream is None else [self._of_stream(reading, stream) for reading in sent]

    @staticmethod
    def _of_stream(reading: Sent, stream: str) -> Sent:
        if type(reading) is not Result:
            if reading.stream and reading.stream != stream:
                error = f"stream is {show(reading.stream)} but the path says {show(stream)}; expected the same or none"
                return rejected(stream, None, reading.seq, error)
            reading.stream = stream
        return reading

    def _check_count(self, readings: int, at_least: bool = False) -> None:
        if readings > self._most:
            count = f"more than {self._most}" if at_least else readings
            raise TooLarge(f"{count} readings in one request; at most {self._most} are taken: send them in several")

    def _object(self, content: bytes) -> Iterator[list[Sent]]:
        if len(content) > self._part_bytes:
            raise TooLarge(f"the body is one value of more than {self._part_bytes} bytes, which no reading needs")
        item = lenient_json(content)
        if not isinstance(item, dict):
            raise BadRequest(f"the body is {kind(item)}; expected an array of readings, or one reading as an object")
        yield [self._convert(item)]

    def _array(self, content: bytes) -> Iterator[list[Sent]]:
        array, count = Array(content, self._part_bytes), 0
        whole = len(content) <= self._part_bytes
        while not array.ended:
            if (piece := array.piece()) is not None and (good := self._all_readings(piece[0])) is not None:
                array.go_on(piece[1])
                count += len(good)
                self._check_count(count, not array.ended)
                yield good
                continue
            if whole:
                items = lenient_json(content)
                array.go_on(len(content))
            else:
                items = array.items(self._most - count + 1)
            count += len(items)
            self._check_count(count, not whole)
            for start in range(0, len(items), PART_READINGS):
                yield [self._convert(item) for item in items[start : start + PART_READINGS]]

    def _all_readings(self, content: bytes) -> list[Sent] | None:
        try:
            readings: list[Sent] = self._many.decode(content)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return readings

    def _lines(self, content: bytes) -> Iterator[list[Sent]]:
        count = 0
        for lines in lines_of(content, self._part_bytes):
            count += len(lines)
            self._check_count(count, len(content) > self._part_bytes)
            for start in range(0, len(lines), PART_READINGS):
                yield [self._line(*line) for line in lines[start : start + PART_READINGS]]

    def _line(self, number: int, line: bytes | TooLong) -> Sent:
        if isinstance(line, TooLong):
            return rejected(None, None, None, f"line {number}: {line}")
        try:
            return self._one.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
        try:
            return self._convert(lenient_json(line))
        except BadRequest as error:
            return rejected(None, None, None, f"line {number}: {error}")

    def _convert(self, content: Any) -> Sent:
        """One decoded item to a reading, or to a Result that says which field is wrong and what was expected."""
        if isinstance(content, TooLong):
            return rejected(None, None, None, str(content))
        problem = problem_of(content, self._channels)
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

    def _all_good(self, sent: list[Sent], now_ms: int) -> Readings | None:
        """Readings without a flaw, checked column by column; None where a closer look is needed."""
        if not sent:
            return None
        try:
            moments = [reading.timestamp for reading in sent]
            rows = [astuple(reading.values) for reading in sent]
        except (AttributeError, TypeError):  # a rejection among them; or one number instead of named values
            return None
        keys = self.keys_of(sent)
        if set(map(type, moments)) != {float} or None in keys:
            return None
        first, last = min(moments), max(moments)
        if first < 0 or last >= LATEST_S or round(last * 1000) > now_ms + self._future_ms:
            return None
        times_ms = np.rint(np.array(moments) * 1000)
        table = np.array(rows, np.float64)  # None becomes NaN
        if np.count_nonzero(np.abs(table) > LARGEST_VALUE):
            return None
        seqs = np.array([NO_SEQ if reading.seq is None else reading.seq for reading in sent], np.int64)
        return Readings(cast("list[StreamKey]", keys), times_ms.astype(np.int64), seqs, _canonical(table))

    def keys_of(self, sent: list[Sent]) -> list[StreamKey | None]:
        """The streams of what was sent; None of what has no valid one."""
        try:
            return [self._keys[reading.stream] for reading in sent]
        except KeyError:
            return [None if type(reading) is Result else self._key(reading.stream) for reading in sent]

    def _key(self, stream: str) -> StreamKey | None:
        if (key := self._keys.get(stream)) is None and STREAM_NAME.fullmatch(stream):
            if len(self._keys) > REMEMBERED_NAMES:
                self._keys.clear()
            key = self._keys[stream] = StreamKey(self._tenant, stream)
        return key

    def _one_by_one(self, sent: list[Sent], now_ms: int) -> tuple[list[Result | None], Readings]:
        """Separate what can be scored from what cannot, and lay it out in columns."""
        results: list[Result | None] = [None] * len(sent)
        streams: list[StreamKey] = []
        moments: list[int] = []
        seqs: list[int] = []
        rows: list[tuple[float | None, ...]] = []
        latest = now_ms + self._future_ms
        one_channel = len(self._channels) == 1
        for place, reading in enumerate(sent):
            if type(reading) is Result:
                results[place] = reading
                continue
            stream, moment, seq, values = reading.stream, reading.timestamp, reading.seq, reading.values
            error = None
            key = self._key(stream)
            if key is None:
                error = (
                    f"stream is {show(stream)}; expected 1 to 128 letters, digits, '.', '_' or '-', "
                    "the first a letter or digit"
                )
            if moment is None:
                moment_ms: int | str = NO_TIME
            else:
                moment_ms = unix_ms(moment)
                if type(moment_ms) is str:
                    error = error or moment_ms
                elif moment_ms > latest:  # type: ignore[operator]
                    error = error or too_far(moment, moment_ms, now_ms, self._future_ms)
            if type(values) is float:
                if not one_channel:
                    expected = f"{len(self._channels)} channels: {listed(self._channels)}"
                    error = error or f"values is one number; this model has {expected}"
                values = (values,)
            else:
                values = astuple(values)
            if error is not None or key is None:
                shown = None if moment is None else str(moment)
                results[place] = rejected(stream, shown, seq, str(error))
                continue
            streams.append(key)
            moments.append(moment_ms)  # type: ignore[arg-type]
            seqs.append(NO_SEQ if seq is None else seq)
            rows.append(values)
        table = np.array(rows, np.float64).reshape(len(rows), len(self._channels))
        too_large = np.abs(table) > LARGEST_VALUE
        kept = []
        for row, place in enumerate([place for place, result in enumerate(results) if result is None]):
            if not too_large[row].any():
                kept.append(row)
                continue
            at = int(too_large[row].argmax())
            error = f"values.{clip(self._channels[at])} is {table[row, at]:g}, {TOO_LARGE}"
            results[place] = rejected(streams[row].name, None, None if seqs[row] == NO_SEQ else seqs[row], error)
        return results, Readings(
            [streams[row] for row in kept],
            np.array([moments[row] for row in kept], np.int64),
            np.array([seqs[row] for row in kept], np.int64),
            _canonical(table[kept]),
        )


def _canonical(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values as they are kept: adding 0 makes -0.0 the same reading as 0.0."""
    return table + 0.0
