"""AnyChannels: the general model for streams whose channels are those that they have sent."""

from __future__ import annotations

from typing import Final

from gatewatch.models.detectors.general.detector import GeneralDetector
from gatewatch.service.core.stepper import Stepper
from gatewatch.service.doors.reading_decoder import ReadingDecoder
from gatewatch.service.serving.served_model import ServedModel

NAMED_KEPT: Final = 256
"""Steppers for lists of channels, which only streams need that begin, grow or are recovered."""


class AnyChannels(ServedModel):
    """The general model as it is served to streams of one number of channels.

    It takes each channel for itself, so what it needs of a stream is how many there are; their names are the stream's.
    There is one of these for each number, made when first needed; they share the network, so that a batch is divided by
    number and not by list.

    Attributes:
        detector: its channels have no names that mean anything.
    """

    any_channels = True

    def __init__(
        self,
        detector: GeneralDetector,
        decoder: ReadingDecoder,
        history_readings: int,
        sizes: dict[int, AnyChannels] | None = None,
    ) -> None:
        """`sizes`: those for other numbers, by number."""
        super().__init__(detector, decoder, history_readings)
        self._general = detector
        self._history_readings = history_readings
        self._sizes = {} if sizes is None else sizes
        self._sizes[len(detector.channels)] = self
        self._named: dict[tuple[str, ...], Stepper] = {}

    @property
    def identity(self) -> str:
        """What tells two served models apart: the model, and that it takes any channels."""
        return f"{self.detector.name}/any"

    def sized(self, channels: int) -> AnyChannels:
        """The one for streams of so many channels."""
        if (sized := self._sizes.get(channels)) is None:
            detector = self._general.watching([str(at) for at in range(channels)])
            sized = AnyChannels(detector, self.decoder, self._history_readings, self._sizes)
        return sized

    def named(self, channels: tuple[str, ...]) -> Stepper:
        """A stepper whose detector has these channels by name."""
        if (stepper := self._named.get(channels)) is None:
            if len(self._named) >= NAMED_KEPT:
                self._named.clear()
            stepper = self._named[channels] = Stepper(self._general.watching(channels), self._history_readings)
        return stepper
