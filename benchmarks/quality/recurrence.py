"""Is an incident told again when it comes again? Eight like events, two to five hours apart, on ten kinds of streams.

    python -m benchmarks.quality.recurrence [--seeds 2] [--minutes 1,5] [--detectors general,trained]

The streams are those of `kinds.py`, with nothing wrong in HISTORY rows. Then one channel of three is off eight times:
by a `level` for 20 or 60 minutes, by a `spike` of one reading, or by noise (`loud`) for 20 minutes; each time by 0.85
to 1.15 times as much. An event is found if a reading in it is anomalous, and told if one raises an alert; so is one
whose anomaly begins up to two readings after it. Printed are shares of events, by the how-manieth they are, and alerts
outside of all events, with them and without.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.quality.kinds import CHANNELS, KINDS, normal_stream
from gatewatch.models.artefact.files import Artefact, model_folder
from gatewatch.models.detectors.detector import ANOMALOUS, Scanner
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.trained.train import train

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

EVENTS, AFTER_ROWS = 8, 300
HISTORY = {1: 20_000, 5: 4_032}
"""Rows, by minutes between two."""

START_MS = 1_767_225_600_000
SHAPES = ("level 20 min", "level 60 min", "spike", "loud 20 min")
NAMES = tuple(f"c{channel}" for channel in range(CHANNELS))


@dataclass(frozen=True)
class Streams:
    """Streams of one kind, side by side: the first without events, each other with those of one shape.

    Attributes:
        values: (T, B, CHANNELS).
        events: (B - 1, EVENTS, 2) first row of each, and the row after its last one.
    """

    kind: str
    values: Floats
    events: NDArray[np.intp]


def streams(kind: str, minutes: int, seed: int) -> Streams:
    """Streams that are the same but for their events."""
    rng, history = np.random.default_rng([seed, minutes, [*KINDS].index(kind)]), HISTORY[minutes]
    gaps = rng.integers(120 // minutes, 300 // minutes, EVENTS)
    rows = history + int(gaps.sum()) + EVENTS * 60 // minutes + AFTER_ROWS
    normal = normal_stream(kind, rows, seed)
    values, events = [normal], []
    reach = np.ptp(np.quantile(normal[:history], (0.005, 0.995), axis=0), axis=0)
    for shape in SHAPES:
        length = 1 if shape == "spike" else int(shape.split()[1]) // minutes
        begins = history + np.cumsum(gaps + length) - length
        channel, sign = int(rng.integers(CHANNELS)), rng.choice([-1, 1])
        off = normal.copy()
        for begin in begins.tolist():
            size = sign * reach[channel] * rng.uniform(0.85, 1.15)
            noise = rng.normal(size=length) if shape.startswith("loud") else np.ones(length)
            off[begin : begin + length, channel] += size * noise
        values.append(off)
        events.append(np.stack([begins, begins + length], axis=1))
    return Streams(kind, np.stack(values, axis=1), np.array(events))


def watch(detector: Scanner, found: Streams, minutes: int) -> tuple[Flags, Flags]:
    """(T, B) what is anomalous, and what alerts."""
    rows, count = found.values.shape[:2]
    states = detector.initial(count)
    anomalous, alert = np.zeros((rows, count), bool), np.zeros((rows, count), bool)
    for row in range(rows):
        times = np.full(count, START_MS + row * minutes * 60_000)
        step = detector.advance(found.values[row].copy(), times, states)
        anomalous[row], alert[row] = step.status == ANOMALOUS, step.alert
    return anomalous, alert


def detectors(names: list[str], found: Streams, minutes: int) -> Iterator[tuple[str, Scanner]]:
    """Those asked for; the trained one has the history of the streams as its recording."""
    if "general" in names:
        yield "general", load_detector(model_folder("general"), NAMES)
    if "trained" in names:
        history = HISTORY[minutes]
        times = START_MS + minutes * 60_000 * np.arange(history, dtype=np.int64)
        recording = Recording(found.kind, NAMES, times, found.values[:history, 0].astype(np.float32))
        trained = train([recording], TrainConfig(layers=1, hidden=32, time_limit_s=10))
        yield "trained", TrainedDetector(Artefact(trained.manifest, trained.graph, bytes(8)))


def within(flags: Flags, events: NDArray[np.intp]) -> Flags:
    """(EVENTS,) whether any of (T,) flags is in each event or in the two rows after it."""
    return np.array([flags[begin : end + 2].any() for begin, end in events.tolist()])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", default="1,5")
    parser.add_argument("--detectors", default="general,trained")
    options = parser.parse_args()
    kept: dict[tuple[str, int, str, str], list[tuple[Flags, Flags, float, float]]] = {}
    for minutes in (int(text) for text in options.minutes.split(",")):
        for kind in KINDS:
            for seed in range(options.seeds):
                found = streams(kind, minutes, seed)
                for name, detector in detectors(options.detectors.split(","), found, minutes):
                    anomalous, alert = watch(detector, found, minutes)
                    since = slice(HISTORY[minutes], None)
                    for at, shape in enumerate(SHAPES):
                        events = found.events[at]
                        told = within(alert[:, at + 1], events)
                        outside = float(alert[since, at + 1].sum()) - sum(
                            int(alert[begin : end + 2, at + 1].sum()) for begin, end in events.tolist()
                        )
                        one = (within(anomalous[:, at + 1], events), told, outside, float(alert[since, 0].sum()))
                        kept.setdefault((name, minutes, shape, kind), []).append(one)
    show(kept)


def show(kept: dict[tuple[str, int, str, str], list[tuple[Flags, Flags, float, float]]]) -> None:
    """Print what was found and told, by shape and by kind."""
    for title, column in (("shape", 2), ("kind", 3)):
        table = Table(title=f"{EVENTS} like events, by {title}")
        for name in (
            "detector",
            "minutes",
            title,
            "found, 1st ... 8th",
            "told, 1st ... 8th",
            "told",
            "of those found once",
        ):
            table.add_column(name, justify="right" if name == "told" else "left")
        table.add_column("alerts outside, without events")
        rows = sorted({(key[0], key[1], key[column]) for key in kept})
        for name, minutes, value in [*rows, *sorted({(key[0], key[1], "all") for key in kept})]:
            some = [
                one
                for key, ones in kept.items()
                if key[:2] == (name, minutes) and value in (key[column], "all")
                for one in ones
            ]
            seen, told = (np.array([one[at] for one in some]) for at in (0, 1))
            once = seen[:, 0]
            table.add_row(
                name,
                str(minutes),
                str(value),
                " ".join(f"{share:.2f}" for share in seen.mean(axis=0)),
                " ".join(f"{share:.2f}" for share in told.mean(axis=0)),
                f"{told.sum(axis=1).mean():.1f}",
                f"{told[once].sum(axis=1).mean():.1f} ({once.mean():.0%})",
                f"{np.mean([one[2] for one in some]):.2f}, {np.mean([one[3] for one in some]):.2f}",
            )
        Console(width=190).print(table)


if __name__ == "__main__":
    main()
