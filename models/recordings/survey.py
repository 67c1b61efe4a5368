"""A look at readings part by part: how often they come, where gaps are, and what is odd about each channel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.recordings.codes import Code, find_codes
from gatewatch.models.recordings.labels import COLUMNS, like_labels
from gatewatch.models.recordings.recording import Recording

GAP_STEPS = 5
"""Usual steps after which nothing counts as a gap."""

MOST_SAMPLED = 20_000
"""Values of a channel that its median and its kinds of values are told from."""

LEAST_RISES, RISING = 20, 0.999
"""Changes of a counter, and the share of them that goes up; the rest are its resets."""

TURN = 360.0
LEAST_LEAP = 270.0
"""Degrees between neighbours that only an angle has, near 0 and near a full turn."""

ANGLE_NAME = re.compile(
    r".*(direction|heading|azimuth|bearing|angle|richtung|winkel|\bdir\b|_deg\b|°).*", re.IGNORECASE
)


@dataclass
class ChannelLook:
    """What one channel has shown.

    Attributes:
        missing, low, high: counts and extremes.
        rises, falls, leaps: changes up, changes down, and leaps over the end of a full turn.
        sample: some of its values.
    """

    name: str
    missing: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    rises: int = 0
    falls: int = 0
    leaps: int = 0
    last: float = float("nan")
    sample: list[float] = field(default_factory=list)

    def take(self, values: NDArray[np.float64]) -> None:
        """Take in the values of some more readings."""
        known = values[np.isfinite(values)]
        self.missing += len(values) - len(known)
        if not len(known):
            return
        steps = np.diff(known, prepend=known[:1] if np.isnan(self.last) else [self.last])
        self.rises += int((steps > 0).sum())
        self.falls += int((steps < 0).sum())
        self.leaps += int((np.abs(steps) > LEAST_LEAP).sum())
        self.low, self.high = min(self.low, float(known.min())), max(self.high, float(known.max()))
        self.last = float(known[-1])
        self.sample += known[: max(0, MOST_SAMPLED - len(self.sample))].tolist()

    @property
    def only_rises(self) -> bool:
        """Whether it is like a counter."""
        changes = self.rises + self.falls
        return changes >= LEAST_RISES and self.rises >= RISING * changes and self.low >= 0

    def notes(self) -> list[str]:
        """What is odd about it, for people."""
        if not self.sample:
            return ["no value at all"]
        if self.low == self.high:
            return [f"always {self.low:.10g}"]
        found = []
        if self.only_rises:
            resets = f", {self.falls} resets" if self.falls else ""
            found.append(f"only rises{resets}: a counter? what it adds a step says more")
        turns = self.low >= 0 and self.high <= TURN and (self.leaps > 0 or self.high > LEAST_LEAP)
        if turns and (self.leaps > 2 or ANGLE_NAME.match(self.name)):
            found.append("an angle? 359 and 1 are near, and look far")
        if len(set(self.sample)) == 2:
            low, high = sorted(set(self.sample))
            found.append(f"two values, {low:.6g} and {high:.6g}: a switch?")
        return found


@dataclass
class StreamLook:
    """What one stream has shown: times and channels.

    Attributes:
        readings, first_us, last_us: how many, from when to when.
        step_us: between neighbours, mostly; None of a stream with one reading.
        gaps, longest_us, longest_at_us: stretches without a reading, and the longest.
        back, same: steps back in time, and readings with the time of the one before.
        uneven: share of the steps that are not the usual one, to a tenth.
        first: its first readings.
    """

    first: Recording
    readings: int = 0
    first_us: int = 0
    last_us: int = 0
    step_us: float | None = None
    gaps: int = 0
    longest_us: int = 0
    longest_at_us: int = 0
    back: int = 0
    same: int = 0
    uneven: float = 0.0
    channels: list[ChannelLook] = field(default_factory=list)

    def take(self, piece: Recording) -> None:
        """Take in some more readings."""
        times = piece.times_us
        if not self.channels:
            self.first_us = self.last_us = int(times[0])
            self.channels = [ChannelLook(name) for name in piece.channels]
        steps = np.diff(times, prepend=[self.last_us])[0 if self.readings else 1 :]
        forward = steps[steps > 0]
        if self.step_us is None and len(forward):
            self.step_us = float(np.median(forward))
            self.uneven = float((np.abs(forward - self.step_us) > 0.1 * self.step_us).mean())
        if self.step_us is not None and len(steps):
            self.gaps += int((steps > GAP_STEPS * self.step_us).sum())
            at = int(steps.argmax())
            if steps[at] > self.longest_us:
                self.longest_us, self.longest_at_us = int(steps[at]), int(times[len(times) - len(steps) + at])
        self.back += int((steps < 0).sum())
        self.same += int((steps == 0).sum())
        self.readings += len(times)
        self.last_us = int(times[-1])
        for look, values in zip(self.channels, piece.values.T, strict=True):
            look.take(values)

    @property
    def codes(self) -> list[Code]:
        """Values of its first readings that may stand for missing ones."""
        return find_codes([self.first])

    @property
    def counters(self) -> list[str]:
        """Its channels that are like counters."""
        return [look.name for look in self.channels if look.only_rises]

    @property
    def labels(self) -> list[str]:
        """Its channels that mark readings, by their names and their first values."""
        return [name for name in self.first.channels if name in COLUMNS] + like_labels(self.first)


class Survey:
    """The looks at all streams of a file, taken in part by part."""

    def __init__(self) -> None:
        self.streams: dict[str, StreamLook] = {}

    def take(self, part: Sequence[Recording]) -> None:
        """Take in the next part."""
        for piece in part:
            if piece.stream not in self.streams:
                self.streams[piece.stream] = StreamLook(piece)
            self.streams[piece.stream].take(piece)
