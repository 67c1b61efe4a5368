"""Run a detector over a recording, reading by reading, as the service would; scores to CSV."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import ANOMALOUS, REASONS, STATUSES, WARMING_UP, Scanner, expected_band
from gatewatch.models.errors import GatewatchError, RecordingError
from gatewatch.models.recordings.files import Rows, lines_of, open_text
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.text import as_cell, listed

ROW_FIELDS = ("score", "status", "reason", "alert", "mid", "half", "residual", "attribution", "parts")
JOINED_FIELDS = ("score", "status", "reason", "alert", "attribution", "expected", "residual", "parts")


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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


def scan_together(detector: Scanner, recordings: Sequence[Recording], states: NDArray[Any] | None = None) -> list[Scan]:
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


def write_scores(scans: Sequence[Scan], path: Path) -> None:
    """Write a CSV with one row per row of a recording file, in its order.

    Columns: timestamp, score, status, alert, and `<channel>.expected` (physical units) and `<channel>.residual`
    (reading minus forecast, in error scales) of each channel; empty where nothing is expected yet, or missing. Of a
    file with several streams, `stream` stands before them.

    Args:
        scans: of each stream of the file.

    Raises:
        GatewatchError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_rows(scans, path)
    except OSError as error:
        raise GatewatchError(f"{path}: the scores cannot be written: {error.strerror}") from error


def _write_rows(scans: Sequence[Scan], path: Path) -> None:
    named = scans[0].recording.places is not None
    header = [*(["stream"] if named else []), "timestamp", "score", "status", "alert"]
    channels = scans[0].recording.channels
    header += [f"{as_cell(channel)}.{what}" for channel in channels for what in ("expected", "residual")]
    order = _order(scans)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(header)
        cells = [_cells(found) for found in scans]
        for at in order:
            name = [as_cell(scans[at].recording.stream)] if named else []
            rows.writerow(name + next(cells[at]))


def _order(scans: Sequence[Scan]) -> list[int]:
    """Which of the scans has each row of the file."""
    if len(scans) == 1:
        return [0] * len(scans[0].recording)
    places = [found.recording.places for found in scans]
    owners = np.repeat(np.arange(len(scans)), [len(found.recording) for found in scans])
    known = [place for place in places if place is not None]
    return list(owners[np.argsort(np.concatenate(known))]) if len(known) == len(scans) else list(owners)


def _cells(found: Scan) -> Iterator[list[object]]:
    """The cells of each row of one stream."""
    recording = found.recording
    observed, times_us = np.isfinite(recording.values), recording.times_us
    for row in range(len(recording)):
        cells: list[object] = [_iso(int(times_us[row])), repr(float(found.score[row]))]
        cells += [STATUSES[found.status[row]], int(found.alert[row])]
        for channel in range(len(recording.channels)):
            residual = f"{found.residual[row, channel]:.6g}" if observed[row, channel] else ""
            expected = found.expected[row, channel, 1]
            cells += [f"{expected:.12g}" if np.isfinite(expected) else "", residual]
        yield cells


def read_scores(path: Path, recording: Recording) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Score and status of each row, from a file that `write_scores` wrote for this recording.

    Raises:
        RecordingError: not such a file, or its rows are of other times.
    """
    try:
        with open_text(path) as file:
            rows = Rows(path, lines_of(file), strict=True)
            header = next(rows, [])
            at = [header.index(name) for name in ("timestamp", "score", "status")]
            found = [[row[place] for place in at] for row in rows]
        times = [time for time, _, _ in found]
        score = np.array([float(score) for _, score, _ in found])
        status = np.array([STATUSES.index(status) for _, _, status in found], np.uint8)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error, IndexError, ValueError) as error:
        raise RecordingError(f"{path}: not the scores of a scan: {error}") from error
    if times != [_iso(time_us) for time_us in recording.times_us.tolist()]:
        raise RecordingError(
            f"{path}: {len(times)} rows that are not those of {recording.stream} ({len(recording)}): "
            "scan this recording again"
        )
    if not np.isfinite(score).all():
        raise RecordingError(f"{path}: a score is not finite; scan {recording.stream} again")
    return score, status


def summary(scans: Sequence[Scan]) -> str:
    """One line: readings, how many anomalous, how many alerts; what was not judged, and whether the budget holds."""
    status = np.concatenate([found.status for found in scans])
    unjudged = int((status == WARMING_UP).sum())
    alerts = sum(int(found.alert.sum()) for found in scans)
    streams = f" of {len(scans)} streams" if len(scans) > 1 else ""
    said = f"{len(status)} readings{streams}, {int((status == ANOMALOUS).sum())} anomalous, {alerts} alerts"
    if unjudged:
        begun = sum(_warm_ups(found.status) for found in scans)
        why = "in one warm-up" if begun == 1 else f"in {begun} warm-ups"
        again = "; a stream warms up anew after a long gap" if begun > len(scans) or unjudged == len(status) else ""
        said += f"; {unjudged} of {len(status)} readings were never judged: {why}{again}"
    if not all(found.keeps_budget for found in scans):
        said += (
            "; readings come so fast that the alert budget cannot be kept: only the grossest anomalies alert, and more "
            "often than allowed; scan means of several readings, or allow more with --alerts-per-week"
        )
    return said


def _warm_ups(status: NDArray[np.uint8]) -> int:
    """How often a stream began to warm up, as far as its readings show."""
    warm = status == WARMING_UP
    return int(warm[0]) + int((warm[1:] & ~warm[:-1]).sum())


def _in_model_order(recording: Recording, detector: Scanner) -> Recording:
    missing = [channel for channel in detector.channels if channel not in recording.channels]
    unknown = [channel for channel in recording.channels if channel not in detector.channels]
    if missing or unknown:
        raise RecordingError(
            f"{recording.stream}: channels {listed(recording.channels)} are not the model's "
            f"({listed(detector.channels)})"
        )
    return recording.only(detector.channels)


def _iso(time_us: int) -> str:
    moment = EPOCH + timedelta(microseconds=time_us)
    finest = "seconds" if time_us % 1_000_000 == 0 else "milliseconds" if time_us % 1000 == 0 else "microseconds"
    return moment.isoformat(timespec=finest).replace("+00:00", "Z")
