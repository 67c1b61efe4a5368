"""NamedReadingDecoder: readings as JSON objects to columns, where a stream may have any channels.

A reading says with its values which channels it has. Names are compared character by character: `Flow` and `flow` are
two channels. What would look like another name, with space around it or with characters that are not seen, is refused.
"""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from gatewatch.service.core.outcomes import Refused
from gatewatch.service.core.readings import LARGEST_SEQ, NO_SEQ, Readings
from gatewatch.service.doors.door import Context, Decoded
from gatewatch.service.doors.json_parts import PART_BYTES
from gatewatch.service.doors.json_problems import LARGEST_VALUE, LATEST_S, show
from gatewatch.service.doors.reading_decoder import NONE, DecodedReading, ReadingDecoder

LONGEST_NAME: Final = 256
"""Characters of a channel's name, as in files."""

CHANNEL_BYTES: Final = 12 * LONGEST_NAME + 64
"""Of a channel in a reading: its name, each character of which JSON may write as two escapes, and its value."""

LISTS_KEPT: Final = 2048
"""Lists of channels that are known to be good."""


class NamedReading(msgspec.Struct, forbid_unknown_fields=True):
    """A reading whose channels may be any."""

    values: dict[str, float | None] | float
    stream: str = ""
    timestamp: str | float | None = None
    seq: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_SEQ)] | None = None


class NamedReadingDecoder(ReadingDecoder):
    """Items to columns, and the channels of each."""

    def __init__(self, most_channels: int, future_ms: int, most: int) -> None:
        """`most_channels`: of a reading. `future_ms`, `most`: as in ReadingDecoder."""
        self._channels = None
        self._instead = {}
        self._most_channels = most_channels
        self._future_ms = future_ms
        self.most = most
        self._reading = NamedReading
        self.one = msgspec.json.Decoder(NamedReading)
        self.many = msgspec.json.Decoder(list[NamedReading])
        self.reading_bytes = max(PART_BYTES, most_channels * CHANNEL_BYTES)
        self._good: set[tuple[str, ...]] = set()

    def _one_good(self, reading: DecodedReading, context: Context) -> Decoded | None:
        if type(reading) is Refused:
            return None
        key, moment, values = context.names.known.get(reading.stream), reading.timestamp, reading.values
        if key is None or type(moment) is not float or type(values) is not dict or not 0 <= moment < LATEST_S:
            return None
        moment_ms = round(moment * 1000)
        channels, row = tuple(values), tuple(values.values())
        if moment_ms > context.now_ms + self._future_ms or channels not in self._good:
            return None
        for value in row:
            if value is not None and not -LARGEST_VALUE <= value <= LARGEST_VALUE:
                return None
        seq = NO_SEQ if reading.seq is None else reading.seq
        return Decoded(Readings(context.model, [key], [moment_ms], [seq], [row], [channels]), NONE)

    def _all_good(self, items: list[DecodedReading], context: Context) -> Decoded | None:
        known, good = context.names.known, self._good
        try:
            keys = [known[reading.stream] for reading in items]
            moments = [reading.timestamp for reading in items]
            channels = [tuple(reading.values) for reading in items]
            rows = [tuple(reading.values.values()) for reading in items]
        except (AttributeError, TypeError, KeyError):  # a rejection among them, a number, or a name not met before
            return None
        if set(map(type, moments)) != {float} or not good.issuperset(channels):
            return None
        first, last = min(moments), max(moments)
        if first < 0 or last >= LATEST_S or round(last * 1000) > context.now_ms + self._future_ms:
            return None
        flat = np.array(list(chain.from_iterable(rows)), np.float64)  # None becomes NaN
        if np.count_nonzero(np.abs(flat) > LARGEST_VALUE):
            return None
        times_ms: list[int] = np.rint(np.array(moments) * 1000).astype(np.int64).tolist()
        seqs = [NO_SEQ if reading.seq is None else reading.seq for reading in items]
        return Decoded(Readings(context.model, keys, times_ms, seqs, rows, [*channels]), NONE)

    def _row(self, values: Any) -> tuple[tuple[str, ...] | None, tuple[float | None, ...]] | str:
        if type(values) is float:
            return None, (values,)
        channels = tuple(values)
        if channels not in self._good:
            if problem := problem_of_channels(channels, self._most_channels):
                return problem
            if len(self._good) >= LISTS_KEPT:
                self._good.clear()
            self._good.add(channels)
        return channels, tuple(values.values())


def problem_of_channels(channels: tuple[str, ...], most: int) -> str | None:
    """Why a reading cannot have these channels; `most`: how many it may have."""
    if len(channels) > most:
        return f"values has {len(channels)} channels; a stream has at most {most} (GATEWATCH_STREAM_CHANNELS)"
    for name in channels:
        if not 0 < len(name) <= LONGEST_NAME or name != name.strip() or not name.isprintable():
            return (
                f"values has {show(name)} as a channel; expected a name of 1 to {LONGEST_NAME} printable "
                "characters, with no space around it"
            )
    return None
