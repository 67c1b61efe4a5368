"""What a picture needs of a scan, kept in bounded memory however long the recording is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import ANOMALOUS
from gatewatch.models.findings import Finding
from gatewatch.models.scan import Scan

MOST_VALUES = 2**20
"""Readings times channels kept of a stream; of more, every other one goes, those with the highest scores last."""

BUCKET = 8
"""Neighbours of which the half that is least to be seen goes."""

MOST_STREAMS, MOST_CHANNELS = 12, 8
"""In one picture: those with incidents first."""


OF_STREAM = ("stream", "channels", "units")
"""What a trace has once, not for each reading."""


@dataclass(frozen=True)
class Trace:
    """The readings of a stream, or enough of them for a picture.

    Attributes:
        times_us: (N,) Unix microseconds.
        values, low, high: (N, C) readings and the band that is normal, NaN where there is none.
        score: (N,) and whether each reading was anomalous.
        units: by channel, of those that name one.
    """

    stream: str
    channels: tuple[str, ...]
    times_us: NDArray[np.int64]
    values: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    score: NDArray[np.float32]
    anomalous: NDArray[np.bool_]
    units: Mapping[str, str]

    def titles(self) -> list[str]:
        """The channels with their units."""
        units = [self.units.get(name, "") for name in self.channels]
        return [
            f"{name} ({unit})" if unit not in name else name for name, unit in zip(self.channels, units, strict=True)
        ]

    def taking(self, rows: NDArray[np.intp] | slice) -> Trace:
        """Some of the readings."""
        own = {one.name: getattr(self, one.name)[rows] for one in fields(self) if one.name not in OF_STREAM}
        return replace(self, **own)

    def only(self, channels: Sequence[str]) -> Trace:
        """Some of the channels."""
        at = [self.channels.index(name) for name in channels]
        return replace(
            self, channels=tuple(channels), values=self.values[:, at], low=self.low[:, at], high=self.high[:, at]
        )

    def thinned(self) -> Trace:
        """Half of the readings: of some neighbours those with the highest scores and the farthest values."""
        whole = len(self.times_us) // BUCKET * BUCKET
        if not whole:
            return self
        values = self.values[:whole].reshape(-1, BUCKET, len(self.channels))
        filled = np.where(np.isfinite(values), values, _means(values, axis=1))
        far = np.abs(filled - filled.mean(axis=1, keepdims=True)) / _spreads(self.values)
        weight = far.max(axis=2) + np.minimum(self.score[:whole].reshape(-1, BUCKET), 1e6)
        best = np.sort(np.argsort(weight, axis=1)[:, BUCKET // 2 :], axis=1)
        rows = (np.arange(len(best))[:, None] * BUCKET + best).ravel()
        return self.taking(np.concatenate([rows, np.arange(whole, len(self.times_us))]))


def _means(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Means of what is known along an axis, which is kept; 0 where nothing is."""
    known = np.isfinite(values)
    means: NDArray[np.float64] = np.where(known, values, 0).sum(axis=axis, keepdims=True) / np.maximum(
        1, known.sum(axis=axis, keepdims=True)
    )
    return means


def _spreads(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(C,) standard deviations of what is known of (N, C) values; 1 where there is none."""
    spreads = np.sqrt(_means((values - _means(values, axis=0)) ** 2, axis=0))[0]
    return np.where(spreads > 0, spreads, 1.0)


class Traces:
    """The traces of streams, taken in part by part."""

    def __init__(self) -> None:
        self._found: dict[str, Trace] = {}

    def take(self, scans: Sequence[Scan], units: Mapping[str, str]) -> None:
        """Take in the scans of a file, or of its next part; units by channel."""
        for one in scans:
            recording, expected = one.recording, one.expected
            trace = Trace(
                recording.stream, recording.channels, recording.times_us, recording.values.astype(np.float64),
                expected[:, :, 0], expected[:, :, 2], one.score, one.status == ANOMALOUS, units,
            )  # fmt: skip
            before = self._found.get(recording.stream)
            if before is not None and before.channels == trace.channels:
                trace = _joined(before, trace)
            while trace.values.size > MOST_VALUES and len(trace.times_us) >= BUCKET:
                trace = trace.thinned()
            self._found[recording.stream] = trace

    def chosen(self, findings: Sequence[Finding]) -> list[Trace]:
        """The streams and channels of a picture, those with incidents first."""
        found = list(dict.fromkeys(one.stream for one in findings))
        streams = [name for name in found if name in self._found] + [name for name in self._found if name not in found]
        return [_most_told(self._found[name], findings) for name in streams[:MOST_STREAMS]]

    @property
    def streams(self) -> int:
        """Streams met."""
        return len(self._found)


def _joined(one: Trace, other: Trace) -> Trace:
    joined: dict[str, Any] = {
        name.name: np.concatenate([getattr(one, name.name), getattr(other, name.name)])
        for name in fields(one)
        if name.name not in OF_STREAM
    }
    return replace(one, **joined)


def _most_told(trace: Trace, findings: Sequence[Finding]) -> Trace:
    told = [one.channel for one in findings if one.stream == trace.stream and one.channel in trace.channels]
    channels = [*dict.fromkeys(told), *(name for name in trace.channels if name not in told)][:MOST_CHANNELS]
    return trace.only([name for name in trace.channels if name in channels])


def drawn(trace: Trace, points: int) -> Trace:
    """A trace of at most about so many readings."""
    while len(trace.times_us) > 2 * points:
        trace = trace.thinned()
    return trace
