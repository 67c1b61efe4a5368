"""How good scores are against labels: figures of labelled streams, each with a 95 % interval of a bootstrap.

    precision, recall, F1     of readings: alarms among labelled and other readings
    event precision           events found / (events found + false alarms)
    event recall              events with an alarm in them / events
    event F1                  their harmonic mean
    VUS-PR                    of the scores, whatever the threshold: vus.py; the mean over streams with events
    delay                     from the first reading of an event to the first alarm in it, median over events found
    false alarms              incidents that touch no event, a stream and week of normal readings

An alarm is a reading judged anomalous. Alarms that follow each other while an incident is open (OPEN_READINGS) belong
together, and to the events that they touch; of the others, those that the service would join to one incident
(JOIN_READINGS) are one false alarm; in slow streams these are fewer readings, see `calm_step`. Readings in a warm-up
are not judged and do not count. One endless alarm finds
every event: read the figures of events beside the precision of readings.

The bootstrap draws as many streams as there are, or of one stream as many blocks of consecutive readings; an event is
never cut in two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import ANOMALOUS, WARMING_UP
from gatewatch.models.detectors.incidents import JOIN_READINGS, OPEN_READINGS, calm_step
from gatewatch.models.errors import EvaluationError
from gatewatch.models.evaluation.bootstrap import Figure, draws, ratio, weighted_mean, weighted_median
from gatewatch.models.evaluation.vus import vus_pr
from gatewatch.models.recordings.labels import Span
from gatewatch.models.scan import Scan

VUS_WINDOW = 100
"""Readings; the default of TSB-AD."""

MOST_BLOCKS = 50

WEEK_S = 7 * 86_400

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """The scores of one stream beside its labels.

    Attributes:
        timestamps_ms: (N,) Unix milliseconds, with fractions where the recording has finer times.
        score: (N,) higher is stranger.
        status: (N,) index into models.detectors.trained.detector.STATUSES.
        events: first and last row of each labelled event, in order.
    """

    stream: str
    timestamps_ms: NDArray[np.int64] | Floats
    score: Floats
    status: NDArray[np.uint8]
    events: Sequence[Span]

    @classmethod
    def of(cls, found: Scan, events: Sequence[Span]) -> Scored:
        """What a scan says of a stream with these events."""
        recording = found.recording
        times = recording.timestamps_ms if recording.micros is None else recording.times_us / 1000
        return cls(recording.stream, times, found.score.astype(np.float64), found.status, events)

    def judged(self) -> Scored:
        """The same without the rows of warm-ups, and without the events that lie in them altogether."""
        kept = np.flatnonzero(self.status != WARMING_UP)
        spans = [
            (int(np.searchsorted(kept, first)), int(np.searchsorted(kept, last, "right")) - 1)
            for first, last in self.events
        ]
        return Scored(
            self.stream, self.timestamps_ms[kept], self.score[kept], self.status[kept],
            [(first, last) for first, last in spans if first <= last],
        )  # fmt: skip

    def label(self) -> NDArray[np.bool_]:
        """(N,) whether a row lies in an event."""
        label = np.zeros(len(self.score), bool)
        for first, last in self.events:
            label[first : last + 1] = True
        return label


@dataclass(frozen=True)
class Evaluation:
    """The figures of some streams.

    Attributes:
        figures: by name, of all streams together.
        streams: by stream, the figures of each alone.
        readings, judged: how many there are, and how many behind the warm-ups.
        events, events_judged: the same of events.
        parts: how many streams or blocks the intervals were drawn from, and which of the two.
    """

    figures: dict[str, Figure]
    streams: dict[str, dict[str, float]]
    readings: int
    judged: int
    events: int
    events_judged: int
    parts: str


def evaluate(given: Sequence[Scored], window: int = VUS_WINDOW) -> Evaluation:
    """Hold scores against labels.

    Args:
        given: streams, each under a name of its own.
        window: of VUS-PR, in readings.

    Raises:
        EvaluationError: a stream is there twice, there is no event, or none behind the warm-ups.
    """
    check_names([one.stream for one in given])
    events = sum(len(one.events) for one in given)
    streams = [one.judged() for one in given]
    judged = sum(len(one.events) for one in streams)
    if not events:
        raise EvaluationError(f"no event in {len(given)} labelled streams; at least one is needed to find")
    if not judged:
        raise EvaluationError(f"all {events} events lie in a warm-up, which is not judged; label later ones")
    if len(streams) > 1:
        counts = _join([_count(one, np.zeros(len(one.score), np.intp), 1) for one in streams])
        volumes = np.array([float(_volume(one, window)[0]) for one in streams])
        weights = draws(len(streams))
        values = _figures(counts, weights) | {"VUS-PR": weighted_mean(volumes, weights)}
        kind = "streams"
    else:
        part = _blocks(streams[0])
        counts = _count(streams[0], part, int(part.max()) + 1)
        weights = draws(len(counts.tp))
        values = _figures(counts, weights) | {"VUS-PR": _volume(streams[0], window, part, weights)}
        kind = "blocks of one stream"
    return Evaluation(
        {name: Figure.of(values[name]) for name in FIGURES},
        {one.stream: _alone(one, window) for one in streams},
        sum(len(one.score) for one in given), sum(len(one.score) for one in streams), events, judged,
        f"{len(counts.tp)} {kind}",
    )  # fmt: skip


def check_names(streams: Sequence[str]) -> None:
    """Raise EvaluationError if a stream is there twice."""
    if twice := {stream for stream in streams if streams.count(stream) > 1}:
        raise EvaluationError(f"{len(streams)} recordings, several of a stream {min(twice)}; expected one of each")


FIGURES = (
    "precision", "recall", "F1", "event precision", "event recall", "event F1", "VUS-PR",
    "delay (readings)", "delay (s)", "false alarms per stream and week",
)  # fmt: skip


@dataclass(frozen=True)
class _Counts:
    """What the figures are made of, (K,) of each part; of the events found, the delays (E,) and in which part."""

    tp: Floats
    fp: Floats
    fn: Floats
    events: Floats
    found: Floats
    false_alarms: Floats
    normal_weeks: Floats
    delay: Floats
    delay_s: Floats
    delay_part: NDArray[np.intp]


def _count(one: Scored, part: NDArray[np.intp], parts: int) -> _Counts:
    """Counts of a judged stream whose rows belong to these parts."""
    label, alarm = one.label(), one.status == ANOMALOUS

    def per_part(rows: NDArray[np.bool_] | Sequence[int]) -> Floats:
        return np.bincount(part[rows], minlength=parts).astype(np.float64)

    firsts = [first for first, _ in one.events]
    found = [(first, row) for first, last in one.events if (row := _first_alarm(alarm, first, last)) is not None]
    steps = np.diff(one.timestamps_ms)
    interval_s = float(np.median(steps[steps > 0])) / 1000 if (steps > 0).any() else np.nan
    step = calm_step(interval_s) if interval_s > 0 else 1
    return _Counts(
        per_part(alarm & label), per_part(alarm & ~label), per_part(~alarm & label),
        per_part(firsts), per_part([first for first, _ in found]), per_part(false_alarms(alarm, label, step)),
        per_part(~label) * interval_s / WEEK_S,
        np.array([row - first for first, row in found], np.float64),
        np.array([(one.timestamps_ms[row] - one.timestamps_ms[first]) / 1000 for first, row in found], np.float64),
        part[[first for first, _ in found]],
    )  # fmt: skip


def incidents(alarm: NDArray[np.bool_], step: int = 1) -> list[NDArray[np.intp]]:
    """The anomalous rows of each incident: those that come while it is open belong together; `step`: calm_step."""
    rows = np.flatnonzero(alarm)
    return np.split(rows, 1 + np.flatnonzero(np.diff(rows) * step > OPEN_READINGS)) if len(rows) else []


def alarms_filled(alarm: NDArray[np.bool_], step: int = 1) -> NDArray[np.bool_]:
    """(N,) the rows from the first to the last anomalous one of each incident."""
    filled = alarm.copy()
    for rows in incidents(alarm, step):
        filled[rows[0] : rows[-1] + 1] = True
    return filled


def false_alarms(alarm: NDArray[np.bool_], label: NDArray[np.bool_], step: int = 1) -> list[int]:
    """The first row of each false alarm; see the top of this file."""
    false = [rows for rows in incidents(alarm, step) if not label[rows].any()]
    begun: list[int] = []
    end = -JOIN_READINGS - 1
    for one in false:
        if (one[0] - end) * step > JOIN_READINGS:
            begun.append(int(one[0]))
        end = int(one[-1])
    return begun


def _first_alarm(alarm: NDArray[np.bool_], first: int, last: int) -> int | None:
    inside = np.flatnonzero(alarm[first : last + 1])
    return first + int(inside[0]) if len(inside) else None


def _join(counts: Sequence[_Counts]) -> _Counts:
    """The counts of several parts, one part each, in order."""
    joined = {field.name: np.concatenate([getattr(one, field.name) for one in counts]) for field in fields(_Counts)}
    joined["delay_part"] = np.repeat(np.arange(len(counts)), [len(one.delay) for one in counts])
    return _Counts(**joined)


def _figures(counts: _Counts, weights: Floats) -> dict[str, Floats]:
    """The figures but VUS-PR, each (R,), for weights (R, K) of the parts; NaN where nothing is divided by nothing."""

    def total(name: str) -> Floats:
        return np.asarray(weights @ getattr(counts, name))

    tp, fp, fn, found, false = (total(name) for name in ("tp", "fp", "fn", "found", "false_alarms"))
    missed = total("events") - found
    return {
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "F1": ratio(2 * tp, 2 * tp + fp + fn),
        "event precision": ratio(found, found + false),
        "event recall": ratio(found, found + missed),
        "event F1": ratio(2 * found, 2 * found + false + missed),
        "delay (readings)": weighted_median(counts.delay, weights[:, counts.delay_part]),
        "delay (s)": weighted_median(counts.delay_s, weights[:, counts.delay_part]),
        "false alarms per stream and week": ratio(false, total("normal_weeks")),
    }


def _volume(one: Scored, window: int, part: NDArray[np.intp] | None = None, weights: Floats | None = None) -> Floats:
    return vus_pr(one.label(), one.score, window, part, weights)


def _alone(one: Scored, window: int) -> dict[str, float]:
    """The figures of one judged stream, without intervals."""
    counts = _count(one, np.zeros(len(one.score), np.intp), 1)
    values = _figures(counts, np.ones((1, 1))) | {"VUS-PR": _volume(one, window)}
    return {"events": float(len(one.events))} | {name: float(values[name][0]) for name in FIGURES}


def _blocks(one: Scored) -> NDArray[np.intp]:
    """(N,) the block of each row: at most MOST_BLOCKS of equal length, longer than what joins alarms, no event cut."""
    rows = len(one.score)
    blocks = max(1, min(MOST_BLOCKS, rows // (2 * JOIN_READINGS)))
    edges = [round(rows * at / blocks) for at in range(1, blocks)]
    for first, last in one.events:
        edges = [last + 1 if first < edge <= last else edge for edge in edges]
    return np.searchsorted(np.unique([edge for edge in edges if edge < rows]), np.arange(rows), "right")
