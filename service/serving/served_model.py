"""ServedModel: a model as it is served: what reads for it, steps it, and tells it from others."""

from __future__ import annotations

import zlib
from functools import lru_cache

from gatewatch.models.artefact.files import Artefact, GeneralManifest
from gatewatch.models.detectors.canary import verify
from gatewatch.models.detectors.detector import Detector
from gatewatch.models.detectors.general.detector import GeneralDetector
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.errors import ArtefactError
from gatewatch.service.core.stepper import Stepper
from gatewatch.service.doors.reading_decoder import ReadingDecoder
from gatewatch.service.settings import Settings


class ServedModel:
    """A detector and all that is made for it once. It travels with the readings; nobody else is bound to a model.

    Answers are written by the door that a reading came through, by the channels that stand beside each outcome: a
    stream's history may hold answers of models before this one.

    Attributes:
        detector: it scores.
        decoder: makes readings in its channels of what doors read.
        stepper: moves records forward with it.
    """

    def __init__(self, detector: Detector, decoder: ReadingDecoder, history_readings: int) -> None:
        self.detector = detector
        self.decoder = decoder
        self.stepper = Stepper(detector, history_readings)

    @classmethod
    def with_settings(cls, detector: Detector, settings: Settings) -> ServedModel:
        """A detector as it is served by a service with these settings."""
        decoder = _decoder_of(detector.channels, int(settings.future_s * 1000), settings.request_readings)
        return cls(detector, decoder, settings.history_readings)

    @classmethod
    def of(cls, artefact: Artefact, settings: Settings) -> ServedModel:
        """A model of the repository, once it has scored its canary as it did where it was made.

        Raises:
            ArtefactError: it did not; or it is a general model, and GATEWATCH_CHANNELS does not say what it watches.
        """
        if isinstance(artefact.manifest, GeneralManifest):
            verify(artefact)
            if not settings.channels:
                raise ArtefactError("it is a general model, which needs the names in GATEWATCH_CHANNELS to watch")
            return cls.with_settings(GeneralDetector(artefact, settings.channels, settings.alerts_per_week), settings)
        detector = TrainedDetector(artefact)
        verify(artefact, detector)
        return cls.with_settings(detector, settings)

    @property
    def name(self) -> str:
        """How replies and metrics call it."""
        return self.detector.name

    @property
    def identity(self) -> str:
        """What tells two served models apart: the model, and its channels in their order."""
        channels = zlib.crc32("\0".join(self.detector.channels).encode())
        return f"{self.detector.name}/{channels:08x}"


@lru_cache(256)
def _decoder_of(channels: tuple[str, ...], future_ms: int, most: int) -> ReadingDecoder:
    """Models of the same channels share it, such as the versions of one model."""
    return ReadingDecoder(channels, future_ms, most)
