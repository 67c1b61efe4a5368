"""Likeness: whether an anomaly is like what people called a false alarm. Pure.

A forecast follows what it missed, so within an anomaly the readings are as expected again, and its end is off to the
other side. What it went to, its first large step says: a value outside of its band, on a channel of a false alarm. The
largest step of late is kept in the stream's record, in units of how far the channel may be off; below 0 if it went to
a side to which no false alarm did. One to the other side takes its place if it is MARGIN times as large; it is
forgotten once the detector has no incident open and would have ended one that began with it.

An anomalous reading is like a false alarm as long as that step is not below 0, and each channel that is strange enough
by itself

- is one of the false alarm's, with a part of the score as large as allowed;
- is within its band, or off by no more than allowed, to whichever side;
- and comes no later after the step than allowed.

What stands still or is missing is like what did; no step matters there. After a reading that is not like one, nothing
is until the anomaly has ended: it is told whole. A state that has to be rebuilt from the history has forgotten that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from gatewatch.models.detectors.incidents import OPEN_READINGS, interval_calm
from gatewatch.service.core.records import OPEN

MARGIN: Final = 1.5
"""Of a step and of how long it lasts. A false alarm that comes back is seldom of exactly the size that it had; and a
step to the other side that is smaller than so much may be the end of the one before."""

TINY: Final = 1e-300


class Allowance(NamedTuple):
    """What is like a false alarm on a channel, see policies/quiet.py.

    Attributes:
        direction: to which its steps go; None of what stands still or is missing.
        deviation, score: the most that it may be off, and the most that its part of the score may be.
        until_ms: of readings up to this time.
        readings: the most from the step on, beside those for which an incident stays open; None for any.
    """

    channel: str
    direction: str | None
    deviation: float
    score: float
    until_ms: float
    readings: int | None = None

    def covers(self, off: float, half: float, part: float, placed: bool, lasted: Lasted, time_ms: int) -> bool:
        """Whether a channel's reading is like it.

        Args:
            off, half: value minus what was expected, and the half width of its band.
            part: its part of the score.
            placed: the reading is strange for where it is, and not for standing still or being missing.
            lasted: since the step.
        """
        if time_ms > self.until_ms or part > self.score or placed != (self.direction is not None):
            return False
        if self.readings is not None and lasted.beyond(self.readings) > OPEN_READINGS:
            return False
        return not placed or abs(off) <= max(half, self.deviation)


class Lasted(NamedTuple):
    """How many readings have come since one, and what a normal one of them counts; see `calm_step`."""

    readings: int
    counts: int

    def beyond(self, readings: int) -> int:
        """What those after so many count."""
        return (self.readings - readings) * self.counts


class Steps:
    """The steps of streams that have these channels, and what is allowed on them."""

    def __init__(self, quiet: Sequence[Allowance], channels: Sequence[str]) -> None:
        self.allowed = [[one for one in quiet if one.channel == name] for name in channels]
        self._labelled = [at for at, own in enumerate(self.allowed) if own]

    def take(self, head: Any, entry: Any, anomalous: bool) -> Lasted:
        """Note the step of a reading in its stream's record; returns how long ago the largest one is.

        Args:
            head: the record after the reading; `step_n` is one more than the number of the step's reading, 0 without.
            anomalous: the reading is.
        """
        n, time_ms = int(entry["n"]), int(entry["timestamp_ms"])
        step = self._step(entry, time_ms)
        first = not head["step_n"]
        before = 0.0 if first else float(head["step"])
        larger = abs(step) > abs(before) * (1.0 if step * before > 0 else MARGIN)
        if (step and larger) or (anomalous and first):
            head["step_n"], head["step_ms"], head["step"] = n + 1, time_ms, step
        return self._lasted(head, n, time_ms)

    def forget(self, head: Any, entry: Any, lasted: Lasted) -> None:
        """Forget a step that is over, after a reading that is not anomalous."""
        if not head["step_n"] or int(entry["status"]) & OPEN:
            return
        if math.isinf(float(head["step"])) or lasted.beyond(0) >= OPEN_READINGS:
            head["step_n"], head["step_ms"], head["step"] = 0, 0, 0.0

    def quiets(self, entry: Any, head: Any, strange: Sequence[tuple[int, float]], placed: bool, lasted: Lasted) -> bool:
        """Whether an anomalous reading is like false alarms; if not, nothing is until its anomaly has ended.

        Args:
            strange: channels that are strange enough by themselves, and their parts of the score.
        """
        time_ms = int(entry["timestamp_ms"])
        like = not math.isinf(float(head["step"])) and not (placed and float(head["step"]) < 0)
        for at, part in strange if like else ():
            off, half = float(entry["values"][at]) - float(entry["mid"][at]), float(entry["half"][at])
            like = like and any(one.covers(off, half, part, placed, lasted, time_ms) for one in self.allowed[at])
        if not like:
            head["step"] = -math.inf
        return like

    def _step(self, entry: Any, time_ms: int) -> float:
        """The largest step of a reading, 0 where each labelled channel is in its band."""
        largest = 0.0
        for at in self._labelled:
            off = float(entry["values"][at]) - float(entry["mid"][at])
            if not abs(off) > float(entry["half"][at]):  # nor where it is missing, or nothing is known
                continue
            own = [one for one in self.allowed[at] if one.direction is not None and time_ms <= one.until_ms]
            if own:
                size = abs(off) / max(TINY, *(one.deviation for one in own))
                side = "above" if off > 0 else "below"
                signed = size if any(one.direction == side for one in own) else -size
                largest = signed if size > abs(largest) else largest
        return largest

    @staticmethod
    def _lasted(head: Any, n: int, time_ms: int) -> Lasted:
        readings = n + 1 - int(head["step_n"]) if head["step_n"] else 0
        return Lasted(readings, interval_calm(readings, time_ms - int(head["step_ms"])) if readings else 1)
