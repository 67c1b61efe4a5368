"""Detector: what a model is to whoever scores with it; Step, what it says of a reading; the words for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gatewatch.models.detectors.asked import Asked

Records = NDArray[Any]
Floats = NDArray[np.float64]

WARMING_UP, NORMAL, ANOMALOUS = 0, 1, 2
STATUSES = ("warming_up", "normal", "anomalous")

REASONS = ("event", "level", "still", "absent", "range", "shape")
"""The parts of a score; a trained model has the first four, the general model has all."""

STATE_VERSION = 2
"""Of the meaning of states; 1 held values as float32, see version_1.py. A state of the general model that lacks what
has been added since is told by its length."""

LARGEST_SCORE = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Step:
    """What a detector says of one reading of each of B streams.

    Attributes:
        score: (B,) float32, 1.0 = threshold.
        status: (B,) index into STATUSES.
        reason: (B,) index into REASONS: which part of the score was largest.
        alert: (B,) true for the reading with which an incident begins.
        mid: (B, C) what was expected of the reading, physical units; NaN where nothing was.
        half: (B, C) half width of the band around it, physical units; infinite where nothing is known. A channel that
            stays outside the band is by itself enough for an alarm.
        residual: (B, C) reading minus expectation, signed, in errors that are usual for the channel; 0 where missing.
        attribution: (B, C) float32 shares of the channels in the score; each row sums to 1.
        parts: (B, 4) the parts of the score, in the order of REASONS.
        states: (B,) records: the streams' states after the reading.
    """

    score: NDArray[np.float32]
    status: NDArray[np.uint8]
    reason: NDArray[np.uint8]
    alert: NDArray[np.bool_]
    mid: Floats
    half: NDArray[np.float32]
    residual: NDArray[np.float32]
    attribution: NDArray[np.float32]
    parts: NDArray[np.float64]
    states: Records


class Detector(Protocol):
    """A model that scores live streams of some channels: all that the service asks of one.

    A stream's state is one record of `state_dtype`; what is in it, only the detector knows.
    """

    @property
    def digest(self) -> bytes:
        """8 bytes that tell the model apart from any other."""

    @property
    def name(self) -> str:
        """How replies and metrics call the model: the digest in hexadecimal."""

    @property
    def architecture(self) -> str:
        """The kind of its network."""

    @property
    def channels(self) -> tuple[str, ...]:
        """(C,) names, in the order of a reading's values."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What must be the same elsewhere for the same scores: the hashes of its artefact, and settings."""

    @property
    def rebuild_readings(self) -> int:
        """How many readings a state that was lost has to be replayed to be whole again."""

    @property
    def state_dtype(self) -> np.dtype[Any]:
        """Of a stream's state."""

    def initial(self, streams: int) -> Records:
        """(B,) states of streams that have not seen a reading."""

    def advance(
        self,
        values: Floats,
        timestamps_ms: NDArray[np.int64],
        states: Records,
        asked: Asked | None = None,
    ) -> Step:
        """Feed one reading of each of B streams, and write the states after it into `states`.

        Args:
            values: (B, C) float64, physical units, NaN where missing.
            timestamps_ms: (B,) Unix time.
            states: (B,) states before the reading.
            asked: what people ask of the streams; None where that is nothing of any.

        Raises:
            ShapeError: the shapes do not fit each other or the model's channels.
        """

    def is_open(self, states: Records) -> NDArray[np.bool_]:
        """(B,) whether each stream's incident is open."""

    def held(self, before: Records, after: Records) -> Records:
        """(B,) states after readings that were followed and taught nothing: what is normal is as before them.

        The incident stays open.
        """

    def require_live(self) -> None:
        """Raise ArtefactError if no stream can be scored while it runs."""

    def carried_over(self, state: bytes, channels_before: Sequence[str]) -> Records | None:
        """(1,) state for these channels from that of the same model for others; None where it has to be rebuilt."""

    @property
    def state_dtype_1(self) -> np.dtype[Any]:
        """Of a state of STATE_VERSION 1."""

    def from_version_1(self, states: Records) -> Records:
        """(B,) states from those of `state_dtype_1`."""

    def digest_1(self, channels: Sequence[str]) -> bytes:
        """What records of format 3 called this model, for streams of these channels."""

    def band_1(self, forecast: Floats) -> tuple[Floats, NDArray[np.float32]]:
        """Mid and half width (N, C), as in Step, of (N, C) forecasts as histories of format 3 kept them."""


class Scanner(Detector, Protocol):
    """A detector that recordings are scored with: what `scan` asks beside."""

    @property
    def warm_up(self) -> int:
        """Readings of a stream that are scored, and not judged yet."""

    def with_incidents_ended(self, states: Records) -> Records:
        """(B,) the same states with no incident to join: the next anomalous reading raises an alert."""

    def set_apart(self, states: Records) -> NDArray[np.bool_]:
        """(B, C) channels that have stood still, or been absent, for so long that they no longer count in the score."""

    def keeps_budget(self, states: Records) -> NDArray[np.bool_]:
        """(B,) whether the alerts allowed can be kept at the pace of each stream; a rate of false alarms always can."""

    def hindsight(self, values: Floats, timestamps_ms: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """(N, C) forecasts of the N readings of a recording by those before and after each; None of a live model.

        Args:
            values: (N, C) physical units, NaN where missing.
            timestamps_ms: (N,) Unix time.
        """

    @property
    def least_company(self) -> int:
        """Recordings from which on they are scored sooner side by side than one after the other."""

    def advance_rows(self, values: Floats, timestamps_ms: NDArray[np.int64], states: Records) -> Step | None:
        """Feed the first readings of a recording together, if they are usual enough for it, as `advance` one by one.

        Args:
            values: (N, C) physical units, NaN where missing.
            timestamps_ms: (N,) Unix time.
            states: (1,) the stream's; changed in place.

        Returns:
            What is said of the first of them, a row each, at least one; None, and nothing is changed, if `advance`
            has to look at the first.
        """

    def advance_knowing(
        self, forecast: NDArray[np.float32], values: Floats, timestamps_ms: NDArray[np.int64], states: Records
    ) -> Step:
        """`advance` with forecasts (B, C) already made, by `hindsight`."""


def expected_band(mid: Floats, half: NDArray[np.float32]) -> Floats:
    """(..., C, 3) low, mid and high in physical units, from (..., C) each; NaN where nothing was expected."""
    bands, wide = np.empty((*mid.shape, 3)), half.astype(np.float64)
    bands[..., 0], bands[..., 1], bands[..., 2] = mid - wide, mid, mid + wide
    unknown = ~np.isfinite(half)
    if np.count_nonzero(unknown):
        bands[unknown] = np.nan
    return bands


def float32(values: Floats) -> NDArray[np.float32]:
    """Float64 to float32, with what float32 cannot hold at its largest value instead of infinity."""
    return np.minimum(np.maximum(values, -LARGEST_SCORE), LARGEST_SCORE).astype(np.float32)
