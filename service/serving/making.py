"""Making: a detector, or an artefact of the repository, as it is served by a service with some settings."""

from __future__ import annotations

from functools import lru_cache

from gatewatch.models.artefact.files import Artefact, GeneralManifest
from gatewatch.models.detectors.canary import verify
from gatewatch.models.detectors.detector import Detector
from gatewatch.models.detectors.general.detector import GeneralDetector
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.doors.named_readings import NamedReadingDecoder
from gatewatch.service.doors.partly_known import PartlyKnownDecoder
from gatewatch.service.doors.reading_decoder import ReadingDecoder
from gatewatch.service.serving.any_channels import AnyChannels
from gatewatch.service.serving.served_model import ServedModel
from gatewatch.service.settings import Settings


def served_by(detector: Detector, settings: Settings) -> ServedModel:
    """A detector as it is served: for its channels; the general one without channels for any."""
    future_ms, most = _limits(settings)
    if isinstance(detector, GeneralDetector) and not detector.channels:
        named = NamedReadingDecoder(settings.stream_channels, future_ms, most)
        return AnyChannels(detector, named, settings.history_readings)
    return ServedModel(detector, _decoder_of(detector.channels, future_ms, most), settings.history_readings)


def served_from(artefact: Artefact, settings: Settings) -> ServedModel:
    """A model of the repository, once it has scored its canary as it did where it was made. Raises ArtefactError."""
    if isinstance(artefact.manifest, GeneralManifest):
        verify(artefact)
        return served_by(GeneralDetector(artefact, settings.channels, settings.alerts_per_week), settings)
    detector = TrainedDetector(artefact)
    verify(artefact, detector)
    decoder = _partly_of(detector.channels, *_limits(settings), settings.stream_channels, settings.channels)
    return ServedModel(detector, decoder, settings.history_readings)


def _limits(settings: Settings) -> tuple[int, int]:
    return int(settings.future_s * 1000), settings.request_readings


@lru_cache(256)
def _partly_of(
    channels: tuple[str, ...], future_ms: int, most: int, most_channels: int, allowed: tuple[str, ...]
) -> PartlyKnownDecoder:
    """As `_decoder_of`."""
    return PartlyKnownDecoder(channels, future_ms, most, most_channels, allowed)


@lru_cache(256)
def _decoder_of(channels: tuple[str, ...], future_ms: int, most: int) -> ReadingDecoder:
    """Models of the same channels share it, such as the versions of one model."""
    return ReadingDecoder(channels, future_ms, most)
