"""Readings: what comes into the core, in columns; whatever door it came through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.asked import Asked
from gatewatch.models.detectors.detector import Detector
from gatewatch.service.core.layout import Layout
from gatewatch.service.core.stream_key import StreamKey

if TYPE_CHECKING:
    from gatewatch.service.core.outcomes import Encoder, Outcomes
    from gatewatch.service.core.stepper import Stepper
    from gatewatch.service.incidents.rules import Rules

NO_TIME: Final = -1
NO_SEQ: Final = -1
LARGEST_SEQ: Final = 2**53
"""JSON readers elsewhere would round what is larger."""


class Models(Protocol):
    """What the core asks of whatever knows which model scores which stream."""

    async def of(self, stream: StreamKey) -> Model:
        """The model that scores a stream. Raises ModelAway where it cannot be had now."""

    async def moved(self, model: Model, streams: Sequence[StreamKey]) -> list[int]:
        """Which of some streams, whose records are another model's, do not have this one by the newest rules.

        The others move to it now. Raises StoreUnavailable where the rules cannot be seen.
        """


class Policies(Protocol):
    """What the core asks of whatever knows what people ask of streams; service/policies is it."""

    async def know(self, streams: Iterable[StreamKey]) -> None:
        """Have the policies of streams at hand. Raises StoreUnavailable."""

    def tags(self, stream: StreamKey) -> Mapping[str, str]:
        """What a stream belongs to: name to value."""

    def is_muted(self, stream: StreamKey) -> bool:
        """Whether nobody is to be told of a stream."""

    def asked(self, streams: Sequence[StreamKey], channels: Sequence[Sequence[str]]) -> Asked | None:
        """What is asked of the scoring of B streams with the same number of channels; None where that is nothing."""

    def rules(self, streams: Sequence[StreamKey]) -> dict[int, Rules]:
        """Place to the rules of those streams that have any; see incidents/rules.py."""


class Model(Protocol):
    """What the core asks of a served model."""

    @property
    def detector(self) -> Detector:
        """It scores."""

    @property
    def stepper(self) -> Stepper:
        """It moves records forward with the detector."""

    @property
    def any_channels(self) -> bool:
        """Whether the channels of a stream are those that it has sent, and not the detector's."""

    def sized(self, channels: int) -> Model:
        """The model for streams of so many channels, where it takes any; else itself."""

    def named(self, channels: tuple[str, ...]) -> Stepper:
        """A stepper whose detector has these channels, where the model takes any; else its own."""


class Readings(msgspec.Struct, frozen=True, gc=False):
    """The N readings of a request that can be scored, in columns: lists, since most requests have one reading.

    Attributes:
        model: whose channels the values are in; the one of no channels, where it takes any.
        streams: their streams.
        timestamps_ms: Unix time, NO_TIME where the sender gave none.
        seqs: the sender's count, NO_SEQ where there is none.
        values: of each the values in the model's order of channels, None where missing.
        channels: of a model that takes any: of each the channels in the order of its values; None of a number alone.
    """

    model: Model
    streams: list[StreamKey]
    timestamps_ms: list[int]
    seqs: list[int]
    values: list[tuple[float | None, ...]]
    channels: list[tuple[str, ...] | None] | None = None

    def __len__(self) -> int:
        return len(self.streams)

    def places_in_order(self) -> list[int]:
        """Places of the readings, so that each stream's stand in their order: by seq, or else by time."""
        order = [
            (0, seq) if seq != NO_SEQ else (1, moment) if moment != NO_TIME else (2, 0)
            for seq, moment in zip(self.seqs, self.timestamps_ms, strict=True)
        ]
        return sorted(range(len(order)), key=order.__getitem__)

    def extend(self, readings: Readings) -> None:
        """Take in more readings of the same model, behind these."""
        self.streams.extend(readings.streams)
        self.timestamps_ms.extend(readings.timestamps_ms)
        self.seqs.extend(readings.seqs)
        self.values.extend(readings.values)
        if self.channels is not None:
            self.channels.extend(readings.channels or ())

    def rearranged(self, places: Sequence[int]) -> Readings:
        """The readings at these places, in this order."""
        columns = (self.streams, self.timestamps_ms, self.seqs, self.values, self.channels)
        ordered = (None if column is None else [column[at] for at in places] for column in columns)
        return Readings(self.model, *ordered)  # type: ignore[arg-type]


class Part(NamedTuple):
    """What a batch takes of a request's readings, from one place up to another, and who writes their answers."""

    readings: Readings
    start: int
    stop: int
    encoder: Encoder


class _WithUnknown:
    """Writes the answer to a reading that was taken without some of its channels."""

    def __init__(self, encoder: Encoder, channels: Sequence[str]) -> None:
        self._encoder = encoder
        self._channels = channels
        self.refusal = encoder.refusal
        self.with_unknown = encoder.with_unknown

    def encode(self, outcomes: Outcomes) -> list[Any]:
        """The answers, with the channels left out."""
        return [self._encoder.with_unknown(answer, self._channels) for answer in self._encoder.encode(outcomes)]


@dataclass(frozen=True)
class Batch:
    """N readings that are scored together by one model, in columns.

    Attributes:
        streams, timestamps_ms, seqs: as in Readings.
        values: (N, C) float64 in the model's order of channels, NaN where missing; 0.0 instead of -0.0.
        encoders: who writes each reading's answer.
        layouts: (N,) the layout of each reading's stream that its row is in, where the model takes any channels.
    """

    model: Model
    streams: list[StreamKey]
    timestamps_ms: NDArray[np.int64]
    seqs: NDArray[np.int64]
    values: NDArray[np.float64]
    encoders: Sequence[Encoder]
    layouts: Sequence[Layout] | None = None

    def __len__(self) -> int:
        return len(self.streams)

    @property
    def partly_known(self) -> int:
        """How many readings are taken without some of their channels; see `moved`."""
        return sum(isinstance(encoder, _WithUnknown) for encoder in self.encoders)

    def layouts_of(self, streams: Sequence[StreamKey]) -> list[Layout] | None:
        """The layout that this batch has the readings of each of these streams in."""
        if self.layouts is None:
            return None
        of = dict(zip(self.streams, self.layouts, strict=True))
        return [of[stream] for stream in streams]

    def channels_at(self, place: int) -> tuple[str, ...]:
        """The channels that the values of a reading are of."""
        return self.model.detector.channels if self.layouts is None else self.layouts[place].channels

    def sent_at(self, place: int) -> dict[str, float]:
        """The values of a reading by the names of their channels, without those that are missing."""
        named = zip(self.channels_at(place), self.values[place].tolist(), strict=True)
        return {channel: value for channel, value in named if value == value}

    def fits(self, place: int, model: Model) -> bool:
        """Whether another model takes a reading: it knows some of its channels."""
        sent = self.sent_at(place)
        return model.any_channels or not sent or not sent.keys().isdisjoint(model.detector.channels)

    def moved(self, places: Sequence[int], model: Model) -> Batch:
        """The readings at these places for another model of channels of its own, which has to fit, in their order.

        Channels that it does not know are left out, which the answers say.
        """
        at = {channel: column for column, channel in enumerate(model.detector.channels)}
        values = np.full((len(places), len(at)), np.nan)
        encoders: list[Encoder] = [self.encoders[place] for place in places]
        for row, place in enumerate(places):
            sent = self.sent_at(place)
            for channel in sent.keys() & at.keys():
                values[row, at[channel]] = sent[channel]
            if unknown := [channel for channel in sent if channel not in at]:
                encoders[row] = _WithUnknown(encoders[row], unknown)
        streams = [self.streams[place] for place in places]
        return Batch(model, streams, self.timestamps_ms[places], self.seqs[places], values, encoders)

    def relaid(self, place: int, model: Model, layout: Layout) -> Batch:
        """One reading for a model that takes any channels, in a layout that has all that were sent."""
        sent = self.sent_at(place)
        values = np.array([[sent.get(channel, np.nan) for channel in layout.channels]])
        of_one = slice(place, place + 1)
        return Batch(
            model.sized(len(layout.channels)),
            self.streams[of_one],
            self.timestamps_ms[of_one],
            self.seqs[of_one],
            values,
            self.encoders[of_one],
            [layout],
        )


def by_model(parts: Sequence[Part]) -> list[tuple[list[Part], Sequence[int]]]:
    """The parts of each model, and where their readings stand among all of them."""
    first = parts[0].readings.model
    if all(part.readings.model is first for part in parts):
        return [(list(parts), range(sum(part.stop - part.start for part in parts)))]
    of_model: dict[int, tuple[list[Part], list[int]]] = {}
    at = 0
    for part in parts:
        size = part.stop - part.start
        own, places = of_model.setdefault(id(part.readings.model), ([], []))
        own.append(part)
        places.extend(range(at, at + size))
        at += size
    return list(of_model.values())


def batch_of(parts: Sequence[Part]) -> Batch:
    """The readings of parts of one model, which has channels of its own."""
    streams: list[StreamKey] = []
    times_ms: list[int] = []
    seqs: list[int] = []
    rows: list[tuple[float | None, ...]] = []
    encoders: list[Encoder] = []
    for readings, start, stop, encoder in parts:
        if stop - start == len(readings.streams):  # most often
            streams += readings.streams
            times_ms += readings.timestamps_ms
            seqs += readings.seqs
            rows += readings.values
            encoders += [encoder] * stop
            continue
        streams += readings.streams[start:stop]
        times_ms += readings.timestamps_ms[start:stop]
        seqs += readings.seqs[start:stop]
        rows += readings.values[start:stop]
        encoders += [encoder] * (stop - start)
    values = np.array(rows, np.float64)  # None becomes NaN
    values += 0.0  # -0.0 is the same reading as 0.0
    return Batch(
        parts[0].readings.model, streams, np.array(times_ms, np.int64), np.array(seqs, np.int64), values, encoders
    )
