"""Canary: readings and the scores a model gave them where it was made, kept in its artefact.

Whoever takes the artefact into use scores the same readings again. Other scores mean that the network does not run here
as it did there: another build of the runtime, or weights that were exchanged with their hashes. The readings are drawn
from a seed, not taken from recordings: an artefact travels farther than the readings it was trained on may.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from gatewatch.models.artefact.files import CANARY, Artefact, GeneralManifest, Manifest
from gatewatch.models.detectors.detector import STATUSES, Detector
from gatewatch.models.detectors.general.detector import GeneralDetector
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.errors import ArtefactError

READINGS: Final = 160
"""More than any model's warm-up, so that there are verdicts to compare."""

MOST_VALUES: Final = 2**16
"""Of all channels; of a model of many channels there are fewer readings."""

SCORE_TOLERANCE: Final = 1e-5
EDGE: Final = 1e-4
"""Contract 2: scores agree within the first of these; verdicts too, except within the second of the threshold."""

OF_THE_GENERAL: Final = ("a", "b")
"""Channels that the general model is shown; it has none of its own."""


class Canary(BaseModel):
    """T readings in order, and what the model said of each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: list[str]
    timestamps_ms: list[int]
    values: list[list[float | None]]
    scores: list[float]
    statuses: list[str]


def canary_of(manifest: Manifest | GeneralManifest, graph: bytes) -> bytes | None:
    """The canary of a model that was just made, as it is kept; None of one that scores finished recordings only."""
    if manifest.kind == "recording":
        return None
    channels = OF_THE_GENERAL if isinstance(manifest, GeneralManifest) else ()
    detector = _detector(Artefact(manifest, graph, bytes(8)), channels)
    times_ms, values = _readings(manifest, len(detector.channels))
    scores, statuses = _score(detector, times_ms, values)
    canary = Canary(
        channels=list(detector.channels),
        timestamps_ms=times_ms.tolist(),
        values=[[None if value != value else value for value in row] for row in values.tolist()],
        scores=scores.tolist(),
        statuses=[STATUSES[status] for status in statuses.tolist()],
    )
    return canary.model_dump_json().encode()


def verify(artefact: Artefact, detector: Detector | None = None) -> int:
    """Score an artefact's canary again; returns its number of readings, 0 where the artefact has none.

    Args:
        detector: of a trained artefact, if there is one already.

    Raises:
        ArtefactError: the model cannot be run or serves no live streams, or gives the canary other scores.
    """
    if artefact.canary is None:
        channels = OF_THE_GENERAL if isinstance(artefact.manifest, GeneralManifest) else ()
        (detector or _detector(artefact, channels)).require_live()
        return 0
    try:
        kept = Canary.model_validate_json(artefact.canary)
        times_ms = np.array(kept.timestamps_ms, np.int64)
        values = np.array(kept.values, np.float64).reshape(len(times_ms), len(kept.channels))
        expected, statuses = np.array(kept.scores, np.float64), [STATUSES.index(status) for status in kept.statuses]
        if not len(times_ms) == len(expected) == len(statuses):
            raise ValueError("a reading without a score, or a score without a reading")
    except (ValidationError, ValueError, OverflowError) as error:
        raise ArtefactError(f"{CANARY}: it is no canary ({str(error).splitlines()[0]}); train again") from error
    if detector is None:
        detector = _detector(artefact, kept.channels if isinstance(artefact.manifest, GeneralManifest) else ())
    detector.require_live()
    if list(detector.channels) != kept.channels:
        raise ArtefactError(f"{CANARY}: its channels are not the model's; train again")
    scores, verdicts = _score(detector, times_ms, values)
    off = np.abs(scores - expected) > SCORE_TOLERANCE * np.maximum(1.0, np.abs(expected))
    off |= (verdicts != np.array(statuses)) & (np.abs(expected - 1.0) > EDGE)
    if off.any():
        first = int(np.flatnonzero(off)[0])
        raise ArtefactError(
            f"{CANARY}: reading {first} scores {scores[first]:.6g}, {STATUSES[verdicts[first]]}; where the model was "
            f"made it was {expected[first]:.6g}, {kept.statuses[first]} ({int(off.sum())} of {len(off)} differ): the "
            "model does not run here as it did there"
        )
    return len(off)


def _detector(artefact: Artefact, channels: Sequence[str]) -> Detector:
    return GeneralDetector(artefact, channels) if channels else TrainedDetector(artefact)


def _score(
    detector: Detector, times_ms: NDArray[np.int64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """(T,) scores and verdicts of readings, stepped one by one from nothing."""
    states = detector.initial(1)
    scores, statuses = np.empty(len(values)), np.empty(len(values), np.uint8)
    for at in range(len(values)):
        step = detector.advance(values[at : at + 1], times_ms[at : at + 1], states)
        scores[at], statuses[at] = step.score[0], step.status[0]
    return scores, statuses


def _readings(manifest: Manifest | GeneralManifest, channels: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(T,) times and (T, C) values: slow noise around the usual; some missing, a jump, one that stands still."""
    length = min(READINGS, max(1, MOST_VALUES // channels))
    rng = np.random.default_rng(0)
    noise, values = rng.normal(size=(length, channels)), np.empty((length, channels))
    level = noise[0]
    for at in range(length):
        values[at] = level = 0.9 * level + 0.4 * noise[at]
    values[rng.random(values.shape) < 0.03] = np.nan
    values[length * 3 // 4 : length * 3 // 4 + 3] += 8.0
    values[-length // 10 :, 0] = values[-length // 10 - 1, 0]
    if isinstance(manifest, Manifest):
        spread = np.array([channel.spread for channel in manifest.channels])
        values = values * spread + np.array([channel.center for channel in manifest.channels])
    interval_ms = 60_000 if isinstance(manifest, GeneralManifest) else max(1, round(manifest.interval_s * 1000))
    return 1_700_000_000_000 + np.arange(length, dtype=np.int64) * interval_ms, values
