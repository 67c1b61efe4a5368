"""PartlyKnownDecoder: readings as JSON objects to the columns of a model that rules give to streams.

Such a stream was there before its model, and may have channels that the model was not trained on: a reading with one is
taken without it, and says so in its answer. A reading with none of the model's channels is rejected.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from gatewatch.service.core.outcomes import Refused, clip
from gatewatch.service.doors.door import Context, Decoded
from gatewatch.service.doors.json_problems import listed, problem_of
from gatewatch.service.doors.named_readings import problem_of_channels
from gatewatch.service.doors.reading_decoder import DecodedReading, ReadingDecoder


class _Partly(NamedTuple):
    """A reading without the channels that its model does not know, and their names as they can be shown."""

    reading: Any
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
        self._own = channels
        self._most_channels = most_channels
        self._allowed = {*channels, *allowed} if allowed else None

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
