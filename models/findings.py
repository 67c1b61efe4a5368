"""What a scan found, as a person would tell it: incidents with beginning, end, channel, direction and reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gatewatch.models.detectors.detector import ANOMALOUS, REASONS
from gatewatch.models.detectors.incidents import OPEN_READINGS
from gatewatch.models.scan import Scan
from gatewatch.models.scores import iso

NO_UNITS: Mapping[str, str] = {}
WORDS = {
    "event": "not what was to come next",
    "level": "stays away from its level",
    "still": "stands still",
    "absent": "values are missing",
    "range": "outside all it has shown so far",
    "shape": "a cycle that is not like those before",
}
"""The parts of the score, see docs/score.md, for who reads a table."""

NOTHING = 1e-5
"""So small a part of another number is shown as 0."""

UNDIRECTED = ("still", "absent")
"""Those that are neither above nor below."""


@dataclass(frozen=True)
class Finding:
    """One incident.

    Attributes:
        stream, channel: the channel with the largest share in the score of its alert.
        start_us, end_us: Unix microseconds of its alert and of its last anomalous reading.
        readings: anomalous ones, from the alert on.
        score: its highest.
        direction: `above` or `below` what was expected, at the alert; empty for what stands still or is missing.
        expected, actual: at the alert, in the channel's unit; NaN where there is none.
        reason: the part of the score that was largest at its highest, one of models.detectors.detector.REASONS.
        running: the recording ends while it goes on.
        unit: of the channel, None where none is named.
    """

    stream: str
    channel: str
    start_us: int
    end_us: int
    readings: int
    score: float
    direction: str
    expected: float
    actual: float
    reason: str
    running: bool = False
    unit: str | None = None

    def words(self) -> str:
        """The reason for people."""
        return WORDS[self.reason]

    def as_json(self) -> dict[str, object]:
        """For scripts: times in RFC 3339, null for no number."""
        numbers = {"expected": self.expected, "actual": self.actual}
        return {
            "stream": self.stream, "channel": self.channel, "start": iso(self.start_us), "end": iso(self.end_us),
            "seconds": (self.end_us - self.start_us) / 1e6, "readings": self.readings, "score": self.score,
            "direction": self.direction or None, "reason": self.reason, "in_words": self.words(),
            "running": self.running, "unit": self.unit,
            **{name: number if np.isfinite(number) else None for name, number in numbers.items()},
        }  # fmt: skip


class Findings:
    """The incidents of streams, taken in part by part.

    An alert begins one, and OPEN_READINGS normal readings end it; what is anomalous later without an alert of its own
    is no new one, and not told.
    """

    def __init__(self) -> None:
        self._done: list[Finding] = []
        self._open: dict[str, tuple[Finding, int]] = {}
        self._rows: dict[str, int] = {}

    def take(self, scans: Sequence[Scan], units: Mapping[str, str] = NO_UNITS) -> None:
        """Take in the scans of a file, or of its next part; units by channel."""
        for found in scans:
            stream = found.recording.stream
            start = self._rows.get(stream, 0)
            self._rows[stream] = start + len(found.recording)
            for row in np.flatnonzero((found.status == ANOMALOUS) | found.alert).tolist():
                before, last = self._open.get(stream, (None, 0))
                now = start + row
                if found.alert[row] and (before is None or now - last > OPEN_READINGS):
                    if before is not None:
                        self._done.append(before)
                    self._open[stream] = _finding(found, row, units), now
                elif before is not None and now - last <= OPEN_READINGS:
                    self._open[stream] = _longer(before, found, row), now

    def join(self, other: Findings) -> None:
        """Take in the incidents of other streams."""
        self._done += other._done
        self._open |= other._open
        self._rows |= other._rows

    def all(self) -> list[Finding]:
        """The incidents in order of time."""
        running = [
            replace(finding, running=self._rows[stream] - last <= OPEN_READINGS)
            for stream, (finding, last) in self._open.items()
        ]
        return sorted([*self._done, *running], key=lambda one: (one.start_us, one.stream))


def _finding(found: Scan, row: int, units: Mapping[str, str]) -> Finding:
    recording, time_us = found.recording, int(found.recording.times_us[row])
    channel = int(found.attribution[row].argmax())
    reason = REASONS[found.reason[row]]
    expected, actual = float(found.expected[row, channel, 1]), float(recording.values[row, channel])
    direction = ""
    if reason not in UNDIRECTED and np.isfinite(expected - actual) and actual != expected:
        direction = "above" if actual > expected else "below"
    return Finding(
        recording.stream, recording.channels[channel], time_us, time_us, 1, float(found.score[row]), direction,
        expected, actual, reason, unit=units.get(recording.channels[channel]),
    )  # fmt: skip


def _longer(before: Finding, found: Scan, row: int) -> Finding:
    longer = replace(
        before, end_us=max(before.end_us, int(found.recording.times_us[row])), readings=before.readings + 1
    )
    if found.score[row] <= before.score:
        return longer
    reason = REASONS[found.reason[row]]
    direction = "" if reason in UNDIRECTED else before.direction
    return replace(longer, score=float(found.score[row]), reason=reason, direction=direction)


def lasted(seconds: float) -> str:
    """A length of time for people: the two largest units."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86_400
    if minutes < 60:
        return f"{minutes:.0f} min"
    if hours < 48:
        return f"{int(hours)} h {int(minutes % 60)} min" if int(minutes % 60) else f"{int(hours)} h"
    return f"{int(days)} d {int(hours % 24)} h" if int(hours % 24) else f"{int(days)} d"


def with_unit(number: float, unit: str | None, beside: float = 0.0) -> str:
    """A number for people; 0 for one that is nothing beside another."""
    if not np.isfinite(number):
        return "-"
    shown = 0.0 if np.isfinite(beside) and abs(number) < NOTHING * abs(beside) else number
    return f"{shown:.5g} {unit}" if unit else f"{shown:.5g}"
