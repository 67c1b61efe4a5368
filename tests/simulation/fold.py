"""Fold: a detector that is a running hash of what it has seen, and the same in plain Python, for the oracle.

Its score depends on every reading before, on their order and times; so equal scores and states prove equal pasts.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.asked import Asked
from gatewatch.models.detectors.detector import ANOMALOUS, NORMAL, STATUSES, WARMING_UP, Records, Step

FACTOR, SUMMAND, MASK = 6364136223846793005, 1442695040888963407, 2**64 - 1
"""Knuth's MMIX generator."""
WARM_UP = 2
NAMES = hashlib.blake2b(struct.pack("<I", 1) + b"x", digest_size=16).digest()
"""Of the one channel, as a tag has it."""
SCORE_BITS = 20
"""Of the hash, as a score from 0 to 2: a float32 holds it exactly."""


class Fold:
    """A Detector. hash' = (hash ^ value ^ time) * FACTOR + SUMMAND; scores, verdicts and forecasts are read off it."""

    def __init__(self) -> None:
        self.digest = b"the fold"
        self.name = self.digest.hex()
        self.architecture = "fold"
        self.rebuild_readings = 0
        self.channels = ("x",)
        self.provenance: dict[str, Any] = {}
        self.state_dtype = np.dtype([("last_ms", "<i8"), ("readings", "<u4"), ("calm", "?"), ("hash", "<u8")])
        self.state_dtype_1 = self.state_dtype

    def initial(self, streams: int) -> Records:
        """(B,) states of streams that have not seen a reading."""
        states = np.zeros(streams, self.state_dtype)
        states["calm"] = True
        return states

    def require_live(self) -> None:
        """It is."""

    def held(self, before: Records, after: Records) -> Records:  # noqa: ARG002
        """It learns nothing but the fold."""
        return after

    def carried_over(self, state: bytes, channels_before: Sequence[str]) -> None:
        """It has one channel, always."""

    def from_version_1(self, states: Records) -> Records:
        """There was none."""
        return states

    def digest_1(self, channels: Sequence[str]) -> bytes:  # noqa: ARG002
        """As now."""
        return self.digest

    def band_1(self, forecast: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """As now."""
        return forecast, forecast.astype(np.float32)

    @staticmethod
    def is_open(states: Records) -> NDArray[np.bool_]:
        """(B,) whether the last reading was anomalous."""
        return np.asarray(~states["calm"])

    def advance(
        self,
        values: NDArray[np.float64],
        timestamps_ms: NDArray[np.int64],
        states: Records,
        asked: Asked | None = None,  # noqa: ARG002
    ) -> Step:
        """Feed one reading of each of B streams; writes into `states`."""
        bits = values.astype(np.float32).view(np.uint32)[:, 0]
        hashed = (states["hash"] ^ bits ^ timestamps_ms.astype(np.uint64)) * np.uint64(FACTOR) + np.uint64(SUMMAND)
        score = (hashed >> np.uint64(64 - SCORE_BITS)).astype(np.float32) / np.float32(2 ** (SCORE_BITS - 1))
        warm = states["readings"] >= WARM_UP
        anomalous = warm & (score > 1)
        alert = anomalous & states["calm"]
        states["hash"] = hashed
        states["last_ms"] = timestamps_ms
        states["readings"] += 1
        states["calm"] = ~anomalous
        half = score[:, None]
        return Step(
            score=score,
            status=warm.view(np.uint8) + anomalous,
            reason=np.zeros(len(score), np.uint8),
            alert=alert,
            mid=half.astype(np.float64),
            half=half,
            residual=half,
            attribution=np.ones_like(half),
            parts=np.empty((len(score), 0)),
            states=states,
        )


@dataclass(frozen=True)
class Sent:
    """One reading as its sender means it; seq or ms is -1 without."""

    seq: int
    ms: int
    value: float


@dataclass(frozen=True)
class After:
    """A stream after one more reading."""

    tag: bytes
    hashed: int
    score: float
    status: str


def replay(readings: Sequence[Sent]) -> list[After]:
    """A stream after each of its readings, applied one by one from nothing."""
    tag, hashed, replayed = bytes(16), 0, []
    for count, reading in enumerate(readings):
        value = struct.pack("<f", reading.value)
        link = struct.pack("<qq", reading.seq, reading.ms) + NAMES + struct.pack("<d", reading.value)
        tag = hashlib.blake2b(tag + link, digest_size=16).digest()
        hashed = ((hashed ^ int.from_bytes(value, "little") ^ reading.ms) * FACTOR + SUMMAND) & MASK
        score = (hashed >> (64 - SCORE_BITS)) / 2 ** (SCORE_BITS - 1)
        status = WARMING_UP if count < WARM_UP else ANOMALOUS if score > 1 else NORMAL
        replayed.append(After(tag, hashed, score, STATUSES[status]))
    return replayed
