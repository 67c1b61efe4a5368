"""Run a detector over a recording, reading by reading, as the service would; what it comes to, in a line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import ANOMALOUS, REASONS, WARMING_UP, Scanner, Step, expected_band
from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.text import counted, listed

ROW_FIELDS = ("score", "status", "reason", "alert", "mid", "half", "residual", "attribution", "parts")
JOINED_FIELDS = ("score", "status", "reason", "alert", "attribution", "expected", "residual", "parts")


WEEK_US = 7 * 86_400 * 1_000_000

BEATS = 64
"""Readings between two calls of who follows a scan."""

ENOUGH, LEAST_PAUSE, LONGEST_PAUSE = 16, 8, 128
"""Rows of one stream that are worth taking together, and rows taken one by one before that is tried again."""


@dataclass(frozen=True)
class Scan:
    """What a detector says of the N readings of a recording; see detector.Step and expected_band for the fields.

    Attributes:
        states: (1,) the stream's state at the end.
        keeps_budget: see Scanner.keeps_budget.
    """

    recording: Recording
    score: NDArray[np.float32]
    status: NDArray[np.uint8]
    reason: NDArray[np.uint8]
    alert: NDArray[np.bool_]
    attribution: NDArray[np.float32]
    expected: NDArray[np.float64]
    residual: NDArray[np.float32]
    parts: NDArray[np.float64]
    states: NDArray[Any]
    keeps_budget: bool

    def incidents(self) -> list[tuple[int, str, str, float]]:
        """Row, reason, channel with the largest share, and score of each alert."""
        rows = np.flatnonzero(self.alert)
        channels = self.recording.channels
        return [
            (int(r), REASONS[self.reason[r]], channels[int(self.attribution[r].argmax())], float(self.score[r]))
            for r in rows
        ]


def scan(detector: Scanner, recording: Recording, states: NDArray[Any] | None = None) -> Scan:
    """Score every row of a recording in its order.

    Args:
        states: (1,) the state to begin with, for instance from the end of the training part; a fresh one if None.

    Raises:
        RecordingError: the recording's channels are not the model's.
    """
    return scan_together(detector, [recording], states)[0]


def scan_together(
    detector: Scanner,
    recordings: Sequence[Recording],
    states: NDArray[Any] | None = None,
    on_readings: Callable[[int], None] = lambda _: None,
) -> list[Scan]:
    """Score recordings, many side by side, one row of each at a time: the same scores as one by one, sooner.

    Args:
        states: (B,) the states to begin with; fresh ones if None.
        on_readings: called now and then with how many more were scored.

    Raises:
        RecordingError: a recording's channels are not the model's.
    """
    ordered = [_in_model_order(recording, detector) for recording in recordings]
    states = detector.initial(len(ordered)) if states is None else states.copy()
    if 1 < len(ordered) < detector.least_company:
        each = (scan_together(detector, [one], states[at : at + 1], on_readings) for at, one in enumerate(ordered))
        return [found for (found,) in each]
    lengths = np.array([len(recording) for recording in ordered])
    values = np.full((lengths.max(), len(ordered), len(detector.channels)), np.nan)
    times = np.zeros((lengths.max(), len(ordered)), np.int64)
    for at, recording in enumerate(ordered):
        values[: lengths[at], at] = recording.values
        times[: lengths[at], at] = recording.timestamps_ms
    known = np.empty(len(ordered), object)
    for at, recording in enumerate(ordered):
        known[at] = detector.hindsight(recording.values.astype(np.float64), recording.timestamps_ms)
    shortest = lengths.min()
    rows: dict[str, NDArray[Any]] = {}
    told = scored = now = 0
    alone, tried, pause = len(ordered) == 1 and known[0] is None, 0, LEAST_PAUSE

    def put(at: Any, running: Any, step: Step) -> None:
        if not rows:
            columns = ((name, getattr(step, name)) for name in ROW_FIELDS)
            rows.update({name: np.zeros((len(values), len(ordered), *of.shape[1:]), of.dtype) for name, of in columns})
        for name, column in rows.items():
            column[at, running] = getattr(step, name)

    while now < len(values):
        if scored - told >= BEATS or not now:
            on_readings(scored - told)
            told = scored
        if alone and now >= tried:
            together = detector.advance_rows(values[now:, 0], times[now:, 0], states)
            taken = 0 if together is None else len(together.score)
            pause = LEAST_PAUSE if taken >= ENOUGH else min(2 * pause, LONGEST_PAUSE)
            tried = now + taken + (0 if taken >= ENOUGH else pause)
            if together is not None:
                put(slice(now, now + taken), 0, together)
                now += taken
                scored += taken
                continue
        running: Any = slice(None) if now < shortest else np.flatnonzero(lengths > now)
        readings = values[now, running], times[now, running], states[running]
        forecasts = [forecast[now] for forecast in known[running] if forecast is not None]
        step = detector.advance_knowing(np.array(forecasts), *readings) if forecasts else detector.advance(*readings)
        if now >= shortest:
            states[running] = step.states
        scored += len(readings[1])
        put(now, running, step)
        now += 1
    on_readings(scored - told)
    found = []
    for at, recording in enumerate(ordered):
        own = {name: rows[name][: lengths[at], at] for name in ROW_FIELDS}
        expected = expected_band(own.pop("mid"), own.pop("half"))
        kept = bool(detector.keeps_budget(states[at : at + 1])[0])
        found.append(Scan(recording, **own, expected=expected, states=states[at : at + 1], keeps_budget=kept))
    return found


def scan_in_order(detector: Scanner, recordings: Iterable[Recording]) -> Iterator[Scan]:
    """Score recordings that follow each other in one stream: the state is carried from each into the next.

    Raises:
        RecordingError: a recording's channels are not the model's.
    """
    states = None
    for recording in recordings:
        found = scan(detector, recording, states)
        states = found.states
        yield found


def scan_after(detector: Scanner, normal: Recording, recording: Recording) -> Scan:
    """Score a recording with the state carried on from the end of what the detector was trained on.

    An incident of the training part ends with it: its alert went to nobody, and must not stand in for the next one.

    Raises:
        RecordingError: a recording's channels are not the model's.
    """
    return scan(detector, recording, detector.with_incidents_ended(scan(detector, normal).states))


def scan_trained_on_beginning(detector: Scanner, recording: Recording, rows: int) -> Scan:
    """Score a recording whose first rows the detector was trained on: scored as all, but as warm-up, never judged.

    Raises:
        RecordingError: the recording's channels are not the model's.
    """
    normal = scan(detector, recording.rows(0, rows))
    normal.status[:] = WARMING_UP
    normal.alert[:] = False
    rest = scan(detector, recording.rows(rows), detector.with_incidents_ended(normal.states))
    joined = {name: np.concatenate([getattr(normal, name), getattr(rest, name)]) for name in JOINED_FIELDS}
    return Scan(_in_model_order(recording, detector), **joined, states=rest.states, keeps_budget=rest.keeps_budget)


@dataclass
class Summary:
    """What a scan comes to, taken in part by part.

    Attributes:
        readings, anomalous, alerts, unjudged: counts.
        warm_ups: how often streams began to warm up, as far as their readings show.
        weeks: how long the readings are at their streams' usual step.
        keeps_budget: whether the alerts allowed can be kept at the pace of each stream.
    """

    readings: int = 0
    anomalous: int = 0
    alerts: int = 0
    unjudged: int = 0
    warm_ups: int = 0
    weeks: float = 0.0
    keeps_budget: bool = True

    def __post_init__(self) -> None:
        """Begin without a stream."""
        self._ends: dict[str, np.uint8] = {}
        self._budgets: dict[str, bool] = {}

    @property
    def streams(self) -> int:
        """Streams met."""
        return len(self._ends)

    @property
    def names(self) -> list[str]:
        """Of these."""
        return list(self._ends)

    def join(self, other: Summary) -> None:
        """Take in what scans of other streams came to."""
        for name in ("readings", "anomalous", "alerts", "unjudged", "warm_ups", "weeks"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._ends |= other._ends
        self._budgets |= other._budgets
        self.keeps_budget = all(self._budgets.values())

    def take(self, scans: Sequence[Scan]) -> None:
        """Take in the scans of a file, or of a part of it."""
        for found in scans:
            stream, status = found.recording.stream, found.status
            warm = status == WARMING_UP
            self.readings += len(status)
            self.anomalous += int((status == ANOMALOUS).sum())
            self.alerts += int(found.alert.sum())
            self.unjudged += int(warm.sum())
            before = self._ends.get(stream, np.uint8(ANOMALOUS)) == WARMING_UP
            self.warm_ups += int(warm[0] and not before) + int((warm[1:] & ~warm[:-1]).sum())
            steps = np.diff(found.recording.times_us)
            forward = steps[steps > 0]
            self.weeks += len(status) * float(np.median(forward)) / WEEK_US if len(forward) else 0.0
            self._ends[stream], self._budgets[stream] = status[-1], found.keeps_budget
        self.keeps_budget = all(self._budgets.values())

    def line(self) -> str:
        """One line: readings, anomalous ones, alerts; what was not judged, and whether the budget holds."""
        streams = f" of {self.streams} streams" if self.streams > 1 else ""
        said = f"{self.readings} readings{streams}, {self.anomalous} anomalous{self._share()}, "
        said += counted(self.alerts, "alert") + self._a_week()
        if self.unjudged:
            why = "in one warm-up" if self.warm_ups == 1 else f"in {self.warm_ups} warm-ups"
            anew = self.warm_ups > self.streams or self.unjudged == self.readings
            again = "; a stream warms up anew after a long gap" if anew else ""
            said += f"; {self.unjudged} of {self.readings} readings were never judged: {why}{again}"
        if not self.keeps_budget:
            said += (
                "; readings come so fast that the alert budget cannot be kept: only the grossest anomalies alert, and "
                "more often than allowed; scan means of several readings, or allow more with --alerts-per-week"
            )
        return said

    def as_json(self) -> dict[str, object]:
        """For scripts."""
        return {
            "readings": self.readings, "streams": self.streams, "anomalous": self.anomalous, "alerts": self.alerts,
            "anomalous_share": self.anomalous / self.readings if self.readings else None,
            "alerts_a_week_and_stream": self.alerts / self.weeks if self.weeks else None,
            "never_judged": self.unjudged, "keeps_budget": self.keeps_budget,
        }  # fmt: skip

    def _share(self) -> str:
        return f" ({self.anomalous / self.readings:.3%})" if self.anomalous else ""

    def _a_week(self) -> str:
        """Alerts a week at the streams' own cadence; of a stream, since that is what an alert budget is for."""
        if not self.alerts or not self.weeks:
            return ""
        return f" ({self.alerts / self.weeks:.3g} a week of a stream)"


def summary(scans: Sequence[Scan]) -> str:
    """`Summary.line` of these scans."""
    found = Summary()
    found.take(scans)
    return found.line()


def _in_model_order(recording: Recording, detector: Scanner) -> Recording:
    missing = [channel for channel in detector.channels if channel not in recording.channels]
    unknown = [channel for channel in recording.channels if channel not in detector.channels]
    if missing or unknown:
        raise RecordingError(
            f"{recording.stream}: channels {listed(recording.channels)} are not the model's "
            f"({listed(detector.channels)})"
        )
    return recording.only(detector.channels)
