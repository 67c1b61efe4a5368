"""Rules: what decides which anomalous readings of a stream count, when they are an incident, and who is told. Pure.

Gates leave the score as it is. A reading is gated when one closes on each channel that is strange enough by itself:
whose part of the score, its share times the score, is above 1; where no channel's is, the one with the largest part.
A limit opens whatever else is closed. What decided about a reading stands in its entry, beside the reason.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import ANOMALOUS, REASONS
from gatewatch.service.core.history import Entries
from gatewatch.service.core.records import GATE_BITS, KEPT, REASON_BITS, STATUS_BITS, UNLEARNED, Records
from gatewatch.service.incidents.likeness import Allowance, Lasted, Steps

GATES: Final = ("", "direction", "deviation", "hours", "limit", "window", "window", "label")
"""What decides about a reading, by the number in its entry."""

OPEN, DIRECTION, DEVIATION, HOURS, LIMIT, WINDOW, LIMIT_IN_WINDOW, LABEL = range(len(GATES))

GATE_SHIFT: Final = 4
NO_DIRECTION: Final = ("still", "absent")
_NO_DIRECTION: Final = tuple(map(REASONS.index, NO_DIRECTION))
"""What stands still or is missing is neither above nor below what was expected, and no deviation from it."""

LIMIT_REASON: Final = "limit"
"""Of an incident with a reading outside a limit."""


TIMES_KEPT: Final = 4096
"""Times as clocks show them in a zone, and times of which it is known what windows skip; to find one takes 2 us, and as
much for each window."""


class Span(NamedTuple):
    """How long something lasts: so many readings of the stream, or so many seconds by their times."""

    readings: int | None
    seconds: float | None

    def reached(self, readings: int, passed_ms: int) -> bool:
        """Whether so many readings, or milliseconds, are as much."""
        if self.readings is not None:
            return readings >= self.readings
        return passed_ms >= 1000 * (self.seconds or 0.0)


@dataclass(frozen=True)
class Hours:
    """Hours of some days of the week, as clocks show them in a time zone.

    Where clocks are set forward, hours that they leave out are not there; where they are set back, those that come
    twice are twice.

    Attributes:
        days: 0 is Monday; those on which the hours begin.
        begin, end: minutes since midnight; an end that is not after the beginning is on the next day.
    """

    zone: ZoneInfo
    days: frozenset[int]
    begin: int
    end: int

    def has(self, time_ms: int) -> bool:
        """Whether a time lies in them."""
        minute, day = _local(self.zone, time_ms // 1000)
        if self.begin < self.end:
            return self.begin <= minute < self.end and day in self.days
        return (minute >= self.begin and day in self.days) or (minute < self.end and (day - 1) % 7 in self.days)


@lru_cache(TIMES_KEPT)
def _local(zone: ZoneInfo, second: int) -> tuple[int, int]:
    """Minutes since midnight, and the day of the week, as clocks show them at a Unix time; a zone is off by seconds."""
    local = datetime.fromtimestamp(second, UTC).astimezone(zone)
    return local.hour * 60 + local.minute, local.weekday()


@dataclass(frozen=True)
class ChannelGate:
    """What is asked of the channels whose name a pattern means.

    Attributes:
        direction: `above` or `below`, if only that matters.
        absolute, relative: the smallest deviation from what was expected that matters: in the channel's unit; and as
            a part of what was expected.
        low, high: beyond these a value always matters.
        hours: in which it matters.
    """

    pattern: re.Pattern[str]
    direction: str | None = None
    absolute: float = 0.0
    relative: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    hours: Hours | None = None

    def closes(self, value: float, mid: float, time_ms: int, placed: bool) -> int:
        """Which of its gates is closed for a value, OPEN if none is.

        Args:
            placed: the value is strange for where it is, and not for standing still or being missing.
        """
        if self.hours is not None and not self.hours.has(time_ms):
            return HOURS
        deviation = value - mid
        if not placed or not math.isfinite(deviation):
            return OPEN
        if self.direction is not None and (deviation > 0) != (self.direction == "above"):
            return DIRECTION
        if abs(deviation) < max(self.absolute, self.relative * abs(mid)):
            return DEVIATION
        return OPEN


@dataclass(frozen=True)
class ActiveWindow:
    """A maintenance window of a stream.

    Attributes:
        judging, learning: what it skips.
        begin_ms, end_ms: between which times it is; within them, where there are hours, in those.
    """

    name: str
    judging: bool
    learning: bool
    begin_ms: float = -math.inf
    end_ms: float = math.inf
    hours: Hours | None = None

    def has(self, time_ms: int) -> bool:
        """Whether a time lies in it."""
        return self.begin_ms <= time_ms < self.end_ms and (self.hours is None or self.hours.has(time_ms))


class Breach(NamedTuple):
    """A value outside its limits: where its channel stands, and on which side."""

    channel: int
    direction: str


MOST_LISTS: Final = 1024
"""Lists of channels whose gates are remembered of one set of rules; of more all are looked for anew."""


@dataclass(frozen=True, eq=False)
class Rules:
    """What is asked of a stream's incidents; one object for all streams of which the same is asked.

    Attributes:
        minimum: for so long an anomaly must have lasted before it is an incident.
        merge: with less than this between them anomalies are one incident; None: as the detector joins them.
        cool_off: for so long after an incident's end nobody is told of another one.
        quiet: what people called a false alarm.
        hold: an incident stays open until a person closes it, and nothing is learned meanwhile.
        begins: an incident may begin; not with readings of the past, which hold nothing that is not held by then.
    """

    gates: tuple[ChannelGate, ...] = ()
    minimum: Span | None = None
    merge: Span | None = None
    cool_off: Span | None = None
    windows: tuple[ActiveWindow, ...] = ()
    quiet: tuple[Allowance, ...] = ()
    hold: bool = False
    begins: bool = True
    _of_channels: dict[tuple[str, ...], _ChannelRules] = field(default_factory=dict, init=False, repr=False)
    _skipped: dict[int, tuple[str | None, bool]] = field(default_factory=dict, init=False, repr=False)

    def window_at(self, time_ms: int) -> str | None:
        """The first window at a time in which nothing is judged, by name."""
        return self._at(time_ms)[0]

    def teaches(self, time_ms: int) -> bool:
        """Whether a reading of a time teaches the model anything."""
        return not self._at(time_ms)[1]

    @cached_property
    def _step_ms(self) -> int:
        """Windows begin and end between two steps of so long, and not within one."""
        edges = [edge for one in self.windows for edge in (one.begin_ms, one.end_ms) if math.isfinite(edge)]
        return 1 if any(edge % 1000 for edge in edges) else 1000

    def _at(self, time_ms: int) -> tuple[str | None, bool]:
        """The first window at a time in which nothing is judged, by name, and whether there is one that skips learning.

        Readings of many streams have one time, and each asks twice; a tenant may have a thousand windows.
        """
        step = time_ms // self._step_ms
        known = self._skipped.get(step)
        if known is None:
            if len(self._skipped) >= TIMES_KEPT:
                self._skipped.clear()
            judging, learning = None, False
            for one in self.windows:
                matters = (one.judging and judging is None) or (one.learning and not learning)
                if matters and one.has(time_ms):
                    judging = one.name if one.judging and judging is None else judging
                    learning = learning or one.learning
            known = self._skipped[step] = judging, learning
        return known

    def decide(self, entry: Any, channels: tuple[str, ...], head: Any) -> int:
        """What decides about a reading: its number among GATES, OPEN if nothing does.

        Args:
            channels: (C,) of the entry.
            head: the stream's record after the reading; where something is quiet, its largest step moves.
        """
        of_channels, time_ms = self._in(channels), int(entry["timestamp_ms"])
        anomalous = int(entry["status"]) & STATUS_BITS == ANOMALOUS
        lasted = of_channels.steps.take(head, entry, anomalous) if self.quiet else NO_STEP
        window = self.window_at(time_ms) if self.windows else None
        if of_channels.limited and of_channels.breach(entry["values"]) is not None:
            return LIMIT if window is None else LIMIT_IN_WINDOW
        if anomalous and (self.gates or self.quiet):
            closed = of_channels.closed(entry, time_ms, head if self.quiet else None, lasted)
            if closed != OPEN:
                return closed
        elif self.quiet:
            of_channels.steps.forget(head, entry, lasted)
        return OPEN if window is None else WINDOW

    def breach(self, entry: Any, channels: tuple[str, ...]) -> Breach | None:
        """The first channel that is outside its limits."""
        of_channels = self._in(channels)
        return of_channels.breach(entry["values"]) if of_channels.limited else None

    def _in(self, channels: tuple[str, ...]) -> _ChannelRules:
        known = self._of_channels.get(channels)
        if known is None:
            if len(self._of_channels) >= MOST_LISTS:
                self._of_channels.clear()
            known = self._of_channels[channels] = _ChannelRules(self.gates, self.quiet, channels)
        return known


class _ChannelRules:
    """The gates of a list of channels, each channel's found by its name.

    Attributes:
        limited: some channel has a limit.
    """

    def __init__(self, gates: Sequence[ChannelGate], quiet: Sequence[Allowance], channels: Sequence[str]) -> None:
        self.steps = Steps(quiet, channels)
        self._gates = [[gate for gate in gates if gate.pattern.match(name)] for name in channels]
        self._low = np.array([max((gate.low for gate in of), default=-math.inf) for of in self._gates])
        self._high = np.array([min((gate.high for gate in of), default=math.inf) for of in self._gates])
        self.limited = bool(np.isfinite(self._low).any() or np.isfinite(self._high).any())

    def breach(self, values: Any) -> Breach | None:
        """The first value outside its limits; one that is missing is not."""
        low, high = values < self._low, values > self._high
        outside = low | high
        if not outside.any():
            return None
        at = int(outside.argmax())
        return Breach(at, "below" if low[at] else "above")

    def closed(self, entry: Any, time_ms: int, head: Any, lasted: Lasted) -> int:
        """The gate that is closed on an anomalous reading, OPEN if it counts.

        Args:
            head: as of `decide`; None where nothing is quiet.
            lasted: since the largest step.
        """
        parts = np.nan_to_num(entry["attribution"]).astype(np.float64) * float(entry["score"])
        placed = int(entry["reason"]) & REASON_BITS not in _NO_DIRECTION
        order = np.argsort(-parts, kind="stable").tolist()
        strange = [at for at in order if parts[at] > 1.0] or order[:1]
        first, left = OPEN, []
        for at in strange:
            value, mid = float(entry["values"][at]), float(entry["mid"][at])
            closed = next(filter(None, (gate.closes(value, mid, time_ms, placed) for gate in self._gates[at])), OPEN)
            if closed == OPEN:
                left.append((at, float(parts[at])))
            first = first or closed
        if not left:
            return first
        return first or LABEL if head is not None and self.steps.quiets(entry, head, left, placed, lasted) else OPEN


NO_STEP: Final = Lasted(0, 1)

NO_RULES: Final = Rules()
"""Of a stream of which nothing is asked any more while its incidents are not as the detector has them."""


def mark(
    entries: Entries,
    rules: Iterable[tuple[int, Rules]],
    channels: Sequence[tuple[str, ...]],
    heads: Records,
) -> None:
    """Write what decides about readings into their entries.

    Args:
        rules: places among the entries, and the rules of their streams.
        channels: (K,) of the entries.
        heads: (K,) the streams' records after the readings; the steps of those with labels move.
    """
    for at, own in rules:
        decided = own.decide(entries[at], channels[at], heads[at])
        if decided != OPEN:
            entries["reason"][at] |= decided << GATE_SHIFT


def unlearned(rules: Sequence[tuple[int, Rules]], times_ms: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """(K,) which readings teach nothing; None where all do.

    Args:
        rules: as in `mark`.
        times_ms: (K,) of the readings.
    """
    marked = np.zeros(len(times_ms), bool)
    for at, own in rules:
        if own.windows:
            marked[at] = not own.teaches(int(times_ms[at]))
    return marked if marked.any() else None


def kept(rules: Sequence[tuple[int, Rules]], statuses: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """(K,) which streams go on to be kept from learning; None where none does.

    Args:
        rules: as in `mark`.
        statuses: (K,) of the streams before the readings.
    """
    marked = np.zeros(len(statuses), bool)
    for at, own in rules:
        marked[at] = own.hold and statuses[at] & KEPT
    return marked if marked.any() else None


def keep(heads: Any, entries: Entries, rules: Sequence[tuple[int, Rules]]) -> list[int]:
    """Keep streams from learning on, from readings with which an incident may begin; returns which.

    Args:
        heads: (K,) the streams' records after the readings.
        rules: as in `mark`.
    """
    begun = [at for at, own in rules if own.hold and own.begins and counts(entries[at])]
    for at in begun:
        heads["status"][at] |= KEPT
        entries["status"][at] |= KEPT
    return begun


def gate_of(entry: Any) -> int:
    """What decided about a reading, by its entry."""
    return (int(entry["reason"]) & GATE_BITS) >> GATE_SHIFT


def limited(entries: Entries) -> Any:
    """(K,) which readings were outside a limit."""
    gates = (entries["reason"] & GATE_BITS) >> GATE_SHIFT
    return (gates == LIMIT) | (gates == LIMIT_IN_WINDOW)


def counted(entries: Entries) -> tuple[dict[str, int], int]:
    """Of (K,) entries, how many each gate decided about, and how many taught nothing."""
    gates = Counter(((entries["reason"] & GATE_BITS) >> GATE_SHIFT).tolist())
    found: Counter[str] = Counter()
    for gate, count in gates.items():
        if gate != OPEN:
            found[GATES[gate]] += count
    return found, int(np.count_nonzero(entries["reason"] & UNLEARNED))


def counts(entry: Any) -> bool:
    """Whether a reading counts: it is anomalous and no gate is closed, or it is outside a limit."""
    gate = gate_of(entry)
    return gate in (LIMIT, LIMIT_IN_WINDOW) or (
        int(entry["status"]) & STATUS_BITS == ANOMALOUS and gate in (OPEN, WINDOW)
    )
