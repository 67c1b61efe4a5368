"""PartlyKnownDecoder: readings as JSON objects to the columns of a model that rules give to streams.

Such a stream was there before its model, and may have channels that the model was not trained on: a reading with one is
taken without it, and says so in its answer. A reading with none of the model's channels is rejected.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import msgspec

from gatewatch.service.core.outcomes import Refused, clip
from gatewatch.service.doors.door import Context, Decoded
from gatewatch.service.doors.json_parts import TooLong
from gatewatch.service.doors.json_problems import NOT_READ, listed, problem_of
from gatewatch.service.doors.named_readings import CHANNEL_BYTES, LISTS_KEPT, NamedReading, problem_of_channels
from gatewatch.service.doors.reading_decoder import DecodedReading, ReadingDecoder


class _Partly(NamedTuple):
    """A reading without the channels that its model does not know, and their names as they can be shown."""

    reading: Any
    unknown: tuple[str, ...]


class _Parted(NamedTuple):
    """How readings of a list of channels are taken.

    Attributes:
        columns: of each channel of the model, where its value stands in the reading; behind the last where it is not.
        unknown: the names of those that are left out, as they can be shown.
    """

    columns: list[int]
    unknown: tuple[str, ...]


class PartlyKnownDecoder(ReadingDecoder):
    """Items to columns, for one model's channels; others are left out."""

    def __init__(
        self, channels: tuple[str, ...], future_ms: int, most: int, most_channels: int, allowed: tuple[str, ...]
    ) -> None:
        """Read for a model.

        Args:
            future_ms, most: as in ReadingDecoder.
            most_channels: of a reading.
            allowed: channels that a reading may have, with those of the model; none for any.
        """
        super().__init__(channels, future_ms, most)
        self.reading_bytes = max(self.reading_bytes, most_channels * CHANNEL_BYTES)
        self._own = channels
        self._most_channels = most_channels
        self._allowed = {*channels, *allowed} if allowed else None
        self._any = msgspec.json.Decoder(NamedReading)
        self._any_many = msgspec.json.Decoder(list[NamedReading])
        self._parted: dict[tuple[str, ...], _Parted] = {}

    def all_readings(self, content: bytes) -> list[DecodedReading] | None:
        """The readings of an array without a flaw, perhaps without some of their channels; None where there is one."""
        readings = super().all_readings(content)
        if readings is not None:
            return readings
        try:
            apart = [self._apart(one) for one in self._any_many.decode(content)]
        except NOT_READ:
            return None
        return None if None in apart else apart

    def line(self, number: int, line: bytes | TooLong) -> DecodedReading:
        """A line of NDJSON."""
        if not isinstance(line, TooLong):
            with contextlib.suppress(*NOT_READ):
                if (reading := self._apart(self._any.decode(line))) is not None:
                    return reading
        return super().line(number, line)

    def _apart(self, sent: NamedReading) -> DecodedReading | None:
        """A reading of this model's channels, perhaps without some; None where a closer look is needed."""
        if isinstance(sent.values, float):
            return self._reading(sent.values, sent.stream, sent.timestamp, sent.seq)
        channels = tuple(sent.values)
        parted = self._parted.get(channels)
        if parted is None:
            parted = self._part(channels)
            if parted is None:
                return None
            if len(self._parted) >= LISTS_KEPT:
                self._parted.clear()
            self._parted[channels] = parted
        row = (*sent.values.values(), None)
        values = self._values(*[row[at] for at in parted.columns])
        reading = self._reading(values, sent.stream, sent.timestamp, sent.seq)
        return _Partly(reading, parted.unknown) if parted.unknown else reading

    def _part(self, channels: tuple[str, ...]) -> _Parted | None:
        """How readings of these channels are taken; None where they are not."""
        unknown = [name for name in channels if name not in self._own]
        if unknown and (
            len(unknown) == len(channels)
            or (self._allowed is not None and not self._allowed.issuperset(unknown))
            or problem_of_channels(channels, self._most_channels)
        ):
            return None
        at = {name: place for place, name in enumerate(channels)}
        columns = [at.get(name, len(channels)) for name in self._own]
        return _Parted(columns, tuple(clip(name) or "" for name in unknown))

    def convert(self, content: Any) -> DecodedReading:
        """One item of JSON to a reading, perhaps without some of its channels, or to why it is refused."""
        values = content.get("values") if isinstance(content, dict) else None
        if not isinstance(values, dict):
            return super().convert(content)
        known = {name: value for name, value in values.items() if name in self._own}
        if len(known) == len(values):
            return super().convert(content)
        unknown = [name for name in values if name not in known]
        if self._allowed is not None and not self._allowed.issuperset(unknown):
            return super().convert(content)
        problem = problem_of(content, None) or problem_of_channels(tuple(values), self._most_channels)
        if problem is None and not known:
            shown = listed([clip(name) or "" for name in unknown])
            problem = f"values has no channel of this model, but {shown}; expected {listed(self._own)}"
        if problem is not None:
            return self.refused(content, problem)
        reading = super().convert({**content, "values": known})
        return reading if type(reading) is Refused else _Partly(reading, tuple(clip(name) or "" for name in unknown))

    def columns(self, items: list[DecodedReading], context: Context) -> Decoded:
        """Lay items out in columns, apart from what cannot be scored."""
        unknown = {at: item.unknown for at, item in enumerate(items) if type(item) is _Partly}
        if not unknown:
            return super().columns(items, context)
        decoded = super().columns([item.reading if type(item) is _Partly else item for item in items], context)
        left_out = {at: names for at, names in unknown.items() if at not in decoded.refused}
        return msgspec.structs.replace(decoded, unknown=left_out)
