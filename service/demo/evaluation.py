"""What was injected against what was detected: pure functions from results to the demo's table and verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gatewatch.models.evaluation.evaluate import incidents
from gatewatch.service.demo.station import MINUTE_MS, Fault, Kind

DETECT_WITHIN_MINUTES: dict[Kind, int] = {
    "leak": 30,
    "bearing wear": 1_800,  # its whole window: at first there is nothing to see
    "stuck sensor": 60,
    "spike": 3,
    "drop-out": 90,
}
"""Later than this after the beginning is not detected."""

SETTLE_MINUTES = 30
"""So long after its end a fault may still be seen: a repair is a step as well."""

LASTING_READINGS = 10
"""So many anomalous readings in one alarm, and what is normal has raised a lasting one."""

FALSE_ALARMS_PER_STREAM_WEEK = 2.0
"""The demo's budget."""

WEEK_MINUTES = 7 * 1_440


@dataclass(frozen=True)
class Scored:
    """The part of a reading's result that is evaluated; `attribution` is empty where there is none."""

    stream: str
    timestamp_ms: int
    status: str
    score: float
    reason: str
    attribution: dict[str, float]

    @property
    def channel(self) -> str:
        """The channel named: the one with the largest share."""
        return max(self.attribution, key=self.attribution.__getitem__, default="")


@dataclass(frozen=True)
class Detection:
    """One injected fault and what became of it.

    Attributes:
        fault: what was injected.
        found: its first anomalous reading, or None.
        largest_score: over the fault's readings.
        alarming_readings: how many of them were anomalous.
        problem: why this is not as it should be; empty if it is.
    """

    fault: Fault
    found: Scored | None
    largest_score: float
    alarming_readings: int
    problem: str

    @property
    def delay_minutes(self) -> int | None:
        """From the fault's first reading to the first anomalous one."""
        return None if self.found is None else (self.found.timestamp_ms - self.fault.start_ms) // MINUTE_MS


@dataclass(frozen=True)
class FalseAlarm:
    """A run of anomalous readings of one stream where nothing was wrong."""

    first: Scored
    readings: int
    largest_score: float


@dataclass(frozen=True)
class Evaluation:
    """The demo's table and verdict.

    Attributes:
        detections: one for each injected fault, in order of time.
        false_alarms: in order of stream and time.
        stream_weeks: judged readings outside faults, in weeks of one stream.
        problems: what is not as it should be; empty if the demo passes.
    """

    detections: list[Detection]
    false_alarms: list[FalseAlarm]
    stream_weeks: float
    problems: list[str]

    @property
    def false_alarms_per_stream_week(self) -> float:
        """False alarms a stream gives in a week."""
        return len(self.false_alarms) / self.stream_weeks if self.stream_weeks else 0.0


def evaluate(scored: Sequence[Scored], faults: Sequence[Fault]) -> Evaluation:
    """Hold the results against what was injected.

    Args:
        scored: results of all streams; those of one stream in order of time, a minute apart.
        faults: what was injected, also what is normal (`is_fault` false).
    """
    streams: dict[str, list[Scored]] = {}
    for result in scored:
        streams.setdefault(result.stream, []).append(result)

    detections = [_detect(fault, streams.get(fault.stream, [])) for fault in sorted(faults, key=lambda f: f.start_ms)]
    false_alarms: list[FalseAlarm] = []
    outside_minutes = 0
    for stream in sorted(streams):
        mine = [fault for fault in faults if fault.stream == stream and fault.is_fault]
        outside = [r for r in streams[stream] if r.status != "warming_up" and not any(_belongs(r, f) for f in mine)]
        outside_minutes += len(outside)
        false_alarms += _alarms(outside)
    evaluation = Evaluation(detections, false_alarms, outside_minutes / WEEK_MINUTES, [])

    problems = [
        f"{detection.fault.stream}, {detection.fault.kind}: {detection.problem}"
        for detection in detections
        if detection.problem
    ]
    rate = evaluation.false_alarms_per_stream_week
    if rate > FALSE_ALARMS_PER_STREAM_WEEK:
        problems.append(f"{rate:.1f} false alarms per stream and week; the budget is {FALSE_ALARMS_PER_STREAM_WEEK:g}")
    return Evaluation(detections, false_alarms, evaluation.stream_weeks, problems)


def _detect(fault: Fault, results: list[Scored]) -> Detection:
    inside = [result for result in results if _belongs(result, fault)]
    anomalous = [result for result in inside if result.status == "anomalous"]
    largest = max((result.score for result in inside), default=0.0)
    if not fault.is_fault:
        lasting = max((alarm.readings for alarm in _alarms(inside)), default=0)
        problem = f"an alarm of {lasting} readings, though this is normal" if lasting >= LASTING_READINGS else ""
        return Detection(fault, anomalous[0] if anomalous else None, largest, len(anomalous), problem)
    if not anomalous:
        return Detection(fault, None, largest, 0, "not detected")
    found = anomalous[0]
    delay = (found.timestamp_ms - fault.start_ms) // MINUTE_MS
    limit = DETECT_WITHIN_MINUTES[fault.kind]
    problem = ""
    if delay > limit:
        problem = f"detected after {delay} minutes; expected within {limit}"
    elif found.channel not in fault.channels:
        problem = f"names {found.channel}; expected {' or '.join(fault.channels)}"
    return Detection(fault, found, largest, len(anomalous), problem)


def _belongs(result: Scored, fault: Fault) -> bool:
    return fault.start_ms <= result.timestamp_ms < fault.end_ms + SETTLE_MINUTES * MINUTE_MS


def _alarms(results: list[Scored]) -> list[FalseAlarm]:
    """Anomalous readings joined to incidents; results of one stream in order of time, a minute apart."""
    runs = incidents(np.array([result.status == "anomalous" for result in results], bool))
    return [FalseAlarm(results[run[0]], len(run), max(results[row].score for row in run)) for run in runs]
