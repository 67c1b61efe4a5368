"""ServedModel: a model as it is served: what reads for it, steps it, and tells it from others."""

from __future__ import annotations

import zlib

from gatewatch.models.detectors.detector import Detector
from gatewatch.service.core.stepper import Stepper
from gatewatch.service.doors.reading_decoder import ReadingDecoder


class ServedModel:
    """A detector and all that is made for it once. It travels with the readings; nobody else is bound to a model.

    Answers are written by the door that a reading came through, by the channels that stand beside each outcome: a
    stream's history may hold answers of models before this one.

    Attributes:
        detector: it scores.
        decoder: makes readings in its channels of what doors read.
        stepper: moves records forward with it.
        any_channels: streams have the channels that they sent; see AnyChannels.
    """

    any_channels = False

    def __init__(self, detector: Detector, decoder: ReadingDecoder, history_readings: int) -> None:
        self.detector = detector
        self.decoder = decoder
        self.stepper = Stepper(detector, history_readings)

    def sized(self, channels: int) -> ServedModel:  # noqa: ARG002
        """Itself: its channels are its own."""
        return self

    def named(self, channels: tuple[str, ...]) -> Stepper:  # noqa: ARG002
        """Its stepper."""
        return self.stepper

    @property
    def name(self) -> str:
        """How replies and metrics call it."""
        return self.detector.name

    @property
    def identity(self) -> str:
        """What tells two served models apart: the model, and its channels in their order."""
        channels = zlib.crc32("\0".join(self.detector.channels).encode())
        return f"{self.detector.name}/{channels:08x}"
