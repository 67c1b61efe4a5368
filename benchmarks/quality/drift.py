"""Does a model age only where its streams have changed? Eight weeks after a training, on ten kinds of streams.

    python -m benchmarks.quality.drift [--seeds 2] [--weeks 8]

The streams are those of `kinds.py`, one reading in five minutes. A model is trained on two weeks of one, and scores
the next ones: as they are; with deviations from each channel's mean twice as large, from their middle on; and with one
channel of three moved by three spreads from there on. Each reading goes into the chart of service/serving/drift.py.
Printed are the share of models that are told to have aged where nothing was changed, with the rate a week of a model,
and the days until a change is told.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.quality.kinds import KINDS, normal_stream
from benchmarks.quality.recurrence import NAMES, START_MS
from gatewatch.models.artefact.files import Artefact
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.trained.train import train
from gatewatch.service.serving.drift import DAY_MS, Chart, sample
from gatewatch.service.serving.drift import KINDS as CHARTS

Floats = NDArray[np.float64]

STEP_MS = 300_000
DAY = DAY_MS // STEP_MS
TRAINED_DAYS = 14
CHANGES = ("as it is", "deviations x 2", "one channel 3 spreads off")


@dataclass(frozen=True)
class Aged:
    """What was told of one model.

    Attributes:
        day: of the first time that each chart told, counted from the training; None for never.
    """

    kind: str
    change: str
    day: dict[str, int | None]


def changed(values: Floats, since: int) -> Floats:
    """(T, 3, C) the streams side by side, with each of CHANGES from a row on."""
    mean, spread = values[:since].mean(axis=0), values[:since].std(axis=0)
    wider, moved = values.copy(), values.copy()
    wider[since:] = mean + 2 * (values[since:] - mean)
    moved[since:, 0] += 3 * spread[0]
    return np.stack([values, wider, moved], axis=1)


def measure(kind: str, weeks: int, seed: int) -> list[Aged]:
    """Train a model on a stream, and have it score what comes then."""
    known = TRAINED_DAYS * DAY
    values = normal_stream(kind, known + 7 * weeks * DAY, seed)
    times = START_MS + STEP_MS * np.arange(len(values), dtype=np.int64)
    recording = Recording(kind, NAMES, times[:known], values[:known].astype(np.float32))
    trained = train([recording], TrainConfig(layers=1, hidden=32, time_limit_s=10, seed=seed))
    detector = TrainedDetector(Artefact(trained.manifest, trained.graph, bytes(8)))
    streams = changed(values[known:], 7 * weeks * DAY // 2)
    states, charts = detector.initial(len(CHANGES)), [Chart() for _ in CHANGES]
    told: list[dict[str, int | None]] = [dict.fromkeys(CHARTS) for _ in CHANGES]
    for row, now_ms in enumerate(times[known:].tolist()):
        step = detector.advance(streams[row].copy(), np.full(len(CHANGES), now_ms), states)
        for at, chart in enumerate(charts):
            totals, count = sample(detector, streams[row][at : at + 1], step.mid[at : at + 1])
            if chart.add(now_ms // DAY_MS, totals, count):
                for of, drift in chart.drift.items():
                    if drift >= 1 and told[at][of] is None:
                        told[at][of] = row // DAY
    return [Aged(kind, change, days) for change, days in zip(CHANGES, told, strict=True)]


def first(aged: Aged) -> int | None:
    """The day on which anything was told."""
    return min((day for day in aged.day.values() if day is not None), default=None)


def said(day: int | None, begin: int) -> str:
    """How many days after one it was told."""
    return "never" if day is None else "before" if day < begin else str(day - begin)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--weeks", type=int, default=8)
    options = parser.parse_args()
    found = [one for kind in KINDS for seed in range(options.seeds) for one in measure(kind, options.weeks, seed)]
    middle = 7 * options.weeks // 2
    table = Table(title=f"{options.seeds} models of each kind, {options.weeks} weeks; changed from day {middle} on")
    for name in ("kind", "as it is: told on day", *(f"{change}: days until told" for change in CHANGES[1:])):
        table.add_column(name)
    for kind in KINDS:
        cells = []
        for change in CHANGES:
            begin = 0 if change == CHANGES[0] else middle
            cells.append(
                ", ".join(said(first(one), begin) for one in found if (one.kind, one.change) == (kind, change))
            )
        table.add_row(kind, *cells)
    Console(width=150).print(table)
    unchanged = [first(one) for one in found if one.change == CHANGES[0]]
    weeks = sum(options.weeks if day is None else (day + 1) / 7 for day in unchanged)
    alarms = sum(day is not None for day in unchanged)
    print(f"as they are: {alarms} of {len(unchanged)} models told, {alarms / weeks:.3f} a week of a model")
    for change in CHANGES[1:]:
        days = [first(one) for one in found if one.change == change]
        later = sorted(day - middle for day in days if day is not None and day >= middle)
        before = sum(day is not None and day < middle for day in days)
        median = later[len(later) // 2] if later else "-"
        print(f"{change}: {len(later)} told, median {median} days; {days.count(None)} never, {before} before it")


if __name__ == "__main__":
    main()
