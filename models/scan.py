"""Run a detector over a recording, reading by reading, as the service would; scores to CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.detector import ANOMALOUS, STATUSES, WARMING_UP, Detector, expected_band
from models.errors import GatewatchError, RecordingError
from models.recordings import Recording
from models.residual import REASONS

ROW_FIELDS = ("score", "status", "reason", "alert", "mid", "half", "residual", "attribution", "parts")
JOINED_FIELDS = ("score", "status", "reason", "alert", "attribution", "expected", "residual", "parts")


@dataclass(frozen=True)
class Scan:
    """What a detector says of the N readings of a recording; see detector.Step and expected_band for the fields.

    Attributes:
        states: (1,) the stream's state at the end.
        keeps_budget: see Detector.keeps_budget.
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


def scan(detector: Detector, recording: Recording, states: NDArray[Any] | None = None) -> Scan:
    """Score every row of a recording in its order.

    Args:
        states: (1,) the state to begin with, for instance from the end of the training part; a fresh one if None.

    Raises:
        RecordingError: the recording's channels are not the model's.
    """
    return scan_together(detector, [recording], states)[0]


def scan_together(
    detector: Detector, recordings: Sequence[Recording], states: NDArray[Any] | None = None
) -> list[Scan]:
    """Score recordings side by side, one row of each at a time: the same scores as one by one, sooner.

    Args:
        states: (B,) the states to begin with; fresh ones if None.

    Raises:
        RecordingError: a recording's channels are not the model's.
    """
    ordered = [_in_model_order(recording, detector) for recording in recordings]
    states = detector.initial(len(ordered)) if states is None else states.copy()
    lengths = np.array([len(recording) for recording in ordered])
    values = np.full((lengths.max(), len(ordered), len(detector.channels)), np.nan)
    times = np.zeros((lengths.max(), len(ordered)), np.int64)
    for at, recording in enumerate(ordered):
        values[: lengths[at], at] = recording.values
        times[: lengths[at], at] = recording.timestamps_ms
    known = [detector.hindsight(recording.values.astype(np.float64), recording.timestamps_ms) for recording in ordered]
    rows: dict[str, NDArray[Any]] = {}
    for now in range(len(values)):
        running = np.flatnonzero(lengths > now)
        readings = values[now, running], times[now, running], states[running]
        forecasts = [forecast[now] for at in running if (forecast := known[at]) is not None]
        step = detector.advance_knowing(np.array(forecasts), *readings) if forecasts else detector.advance(*readings)
        states[running] = step.states
        for name in ROW_FIELDS:
            column = getattr(step, name)
            if name not in rows:
                rows[name] = np.zeros((len(values), len(ordered), *column.shape[1:]), column.dtype)
            rows[name][now, running] = column
    found = []
    for at, recording in enumerate(ordered):
        own = {name: rows[name][: lengths[at], at] for name in ROW_FIELDS}
        expected = expected_band(own.pop("mid"), own.pop("half"))
        kept = bool(detector.keeps_budget(states[at : at + 1])[0])
        found.append(Scan(recording, **own, expected=expected, states=states[at : at + 1], keeps_budget=kept))
    return found


def scan_in_order(detector: Detector, recordings: Iterable[Recording]) -> Iterator[Scan]:
    """Score recordings that follow each other in one stream: the state is carried from each into the next.

    Raises:
        RecordingError: a recording's channels are not the model's.
    """
    states = None
    for recording in recordings:
        found = scan(detector, recording, states)
        states = found.states
        yield found


def scan_after(detector: Detector, normal: Recording, recording: Recording) -> Scan:
    """Score a recording with the state carried on from the end of what the detector was trained on.

    An incident of the training part ends with it: its alert went to nobody, and must not stand in for the next one.

    Raises:
        RecordingError: a recording's channels are not the model's.
    """
    return scan(detector, recording, detector.with_incidents_ended(scan(detector, normal).states))


def scan_trained_on_beginning(detector: Detector, recording: Recording, rows: int) -> Scan:
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


def write_scores(found: Scan, path: Path) -> None:
    """Write a CSV with one row per row of the recording, in its order.

    Columns: timestamp, score, status, alert, and `<channel>.expected` (physical units) and `<channel>.residual`
    (reading minus forecast, in error scales) of each channel; empty where nothing is expected yet, or missing.

    Raises:
        GatewatchError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_rows(found, path)
    except OSError as error:
        raise GatewatchError(f"{path}: the scores cannot be written: {error.strerror}") from error


def _write_rows(found: Scan, path: Path) -> None:
    recording = found.recording
    header = ["timestamp", "score", "status", "alert"]
    header += [f"{channel}.{what}" for channel in recording.channels for what in ("expected", "residual")]
    observed = np.isfinite(recording.values)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(header)
        for row in range(len(recording)):
            cells: list[object] = [_iso(int(recording.timestamps_ms[row])), repr(float(found.score[row]))]
            cells += [STATUSES[found.status[row]], int(found.alert[row])]
            for channel in range(len(recording.channels)):
                residual = f"{found.residual[row, channel]:.6g}" if observed[row, channel] else ""
                expected = found.expected[row, channel, 1]
                cells += [f"{expected:.12g}" if np.isfinite(expected) else "", residual]
            rows.writerow(cells)


def read_scores(path: Path, recording: Recording) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Score and status of each row, from a file that `write_scores` wrote for this recording.

    Raises:
        RecordingError: not such a file, or its rows are of other times.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        times = [row["timestamp"] for row in rows]
        score = np.array([float(row["score"]) for row in rows])
        status = np.array([STATUSES.index(row["status"]) for row in rows], np.uint8)
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        raise RecordingError(f"{path}: not the scores of a scan: {error}") from error
    if times != [_iso(int(timestamp_ms)) for timestamp_ms in recording.timestamps_ms]:
        raise RecordingError(
            f"{path}: {len(times)} rows that are not those of {recording.stream} ({len(recording)}): "
            "scan this recording again"
        )
    if not np.isfinite(score).all():
        raise RecordingError(f"{path}: a score is not finite; scan {recording.stream} again")
    return score, status


def summary(found: Scan) -> str:
    """One line: readings, how many anomalous, how many alerts; what was not judged, and whether the budget holds."""
    unjudged = int((found.status == WARMING_UP).sum())
    told = (
        f"{len(found.recording)} readings, {int((found.status == ANOMALOUS).sum())} anomalous, "
        f"{int(found.alert.sum())} alerts"
    )
    if unjudged:
        told += f"; {unjudged} warming up, not judged"
    if not found.keeps_budget:
        told += (
            "; readings come so fast that the alert budget cannot be kept: only the grossest anomalies alert, and more "
            "often than allowed; scan means of several readings, or allow more with --alerts-per-week"
        )
    return told


def _in_model_order(recording: Recording, detector: Detector) -> Recording:
    missing = [channel for channel in detector.channels if channel not in recording.channels]
    unknown = [channel for channel in recording.channels if channel not in detector.channels]
    if missing or unknown:
        raise RecordingError(
            f"{recording.stream}: channels {', '.join(recording.channels)} are not the model's "
            f"({', '.join(detector.channels)})"
        )
    order = [recording.channels.index(channel) for channel in detector.channels]
    return Recording(recording.stream, detector.channels, recording.timestamps_ms, recording.values[:, order])


def _iso(timestamp_ms: int) -> str:
    moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds" if timestamp_ms % 1000 else "seconds").replace("+00:00", "Z")
