"""Recordings that nobody would wish for: what is learned of them, how sure, and what comes of it.

    python -m benchmarks.quality.odd [--cases fifty,daylight] [--epochs 20]

Of each case a small network is trained, and the general model shown the same. Both then watch what follows, of the
same kind; in its second half the first channel is off by FAULT for FAULT_ROWS, FAULTS times.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.quality.kinds import DAY
from benchmarks.quality.series import WEEK_S
from gatewatch.models.artefact.files import Artefact, model_folder
from gatewatch.models.detectors.detector import ANOMALOUS, Scanner
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import scan_after
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.trained.train import train

Floats = NDArray[np.float64]

START_MS, STEP_MS = 1_700_000_000_000, 86_400_000 // DAY
NEW_ROWS = 4000
FAULTS, FAULT_ROWS, FAULT = 5, 20, 5.0
"""So many, of so many rows, by so many amplitudes of a wave."""

SLOWER = 10.0
COMMANDS, FOLLOWERS = 40, 12

COLUMNS = ("case", "model", "T of events, levels", "confidence", "worth", "flagged, %", "alerts, weeks", "found")


class Stream(NamedTuple):
    """A case: the first `recorded` rows are trained on.

    Attributes:
        values: (N, C).
        places: (N,) when, in rows of five minutes.
    """

    values: Floats
    places: Floats
    recorded: int


def fifty(rng: np.random.Generator) -> Stream:
    """Fifty rows, of a wave of forty."""
    return _waves(rng, 50, period=40)


def one_fault(rng: np.random.Generator) -> Stream:
    """The fault in the recording."""
    return _with_faults(_waves(rng, 4000), 0, 4000, 1)


def ten_faults(rng: np.random.Generator) -> Stream:
    """Ten faults in the recording."""
    return _with_faults(_waves(rng, 4000), 0, 4000, 10)


def long_period(rng: np.random.Generator) -> Stream:
    """A period of three times the recording."""
    return _waves(rng, 2000, period=6000)


def two_periods(rng: np.random.Generator) -> Stream:
    """A day in a week."""
    stream = _waves(rng, 6000)
    return stream._replace(values=stream.values + np.sin(2 * np.pi * stream.places[:, None] / (7 * DAY)))


def slower_recorded(rng: np.random.Generator) -> Stream:
    """Readings that come ten times as rarely from the middle of the recording on."""
    return _slower(rng, 3000, 6000)


def slower_since(rng: np.random.Generator) -> Stream:
    """The same from the end of the recording on."""
    return _slower(rng, 4000, 4000)


def daylight(rng: np.random.Generator) -> Stream:
    """Hours of work by a clock that is set an hour on, 1,000 rows after the recording."""
    places = np.arange(8000.0 + NEW_ROWS)
    hour = (places + DAY / 24 * (places >= 9000)) % DAY
    at_work = ((hour > DAY / 3) & (hour < 3 * DAY / 4)).astype(np.float64)
    slowly = np.convolve(at_work, np.ones(20) / 20)[: len(places)]
    values = np.stack([at_work, slowly], axis=1) + 0.05 * rng.standard_normal((len(places), 2))
    return Stream(values, places, 8000)


def commands(rng: np.random.Generator) -> Stream:
    """Commands of two values, and sensors that follow some of them."""
    places = np.arange(6000.0 + NEW_ROWS)
    given = np.cumsum(rng.random((len(places), COMMANDS)) < 1 / 80, axis=0) % 2.0
    to = given @ (rng.standard_normal((COMMANDS, FOLLOWERS)) * (rng.random((COMMANDS, FOLLOWERS)) < 0.1))
    sensors, sensor = np.empty_like(to), np.zeros(FOLLOWERS)
    for row, target in enumerate(to):
        sensor = sensor + (target - sensor) / 15
        sensors[row] = sensor
    sensors += 0.03 * rng.standard_normal(sensors.shape)
    return Stream(np.concatenate([sensors, given], axis=1), places, 6000)


CASES: dict[str, Callable[[np.random.Generator], Stream]] = {
    one.__name__: one
    for one in (
        *(fifty, one_fault, ten_faults, long_period, two_periods),
        *(slower_recorded, slower_since, daylight, commands),
    )
}


def _waves(rng: np.random.Generator, recorded: int, period: float = DAY, places: Floats | None = None) -> Stream:
    places = np.arange(float(recorded + NEW_ROWS)) if places is None else places
    waves = np.sin(2 * np.pi * places[:, None] / period + np.arange(3.0))
    return Stream(waves + 0.1 * rng.standard_normal(waves.shape), places, recorded)


def _slower(rng: np.random.Generator, since: int, recorded: int) -> Stream:
    steps = np.where(np.arange(recorded + NEW_ROWS) < since, 1.0, SLOWER)
    return _waves(rng, recorded, places=np.cumsum(steps))


def _with_faults(stream: Stream, start: int, stop: int, faults: int) -> Stream:
    """The same with so many faults, evenly between two rows."""
    values = stream.values.copy()
    for row in _fault_rows(start, stop, faults):
        values[row : row + FAULT_ROWS, 0] += FAULT
    return stream._replace(values=values)


def _fault_rows(start: int, stop: int, faults: int) -> list[int]:
    return [start + (2 * at + 1) * (stop - start) // (2 * faults) for at in range(faults)]


def measure(name: str, epochs: int) -> list[list[str]]:
    """A row of the table for the trained model, and one for the general."""
    stream = CASES[name](np.random.default_rng(0))
    half = len(stream.values) - NEW_ROWS // 2
    stream = _with_faults(stream, half, len(stream.values), FAULTS)
    names = tuple(f"c{at}" for at in range(stream.values.shape[1]))
    whole = Recording("odd", names, START_MS + (STEP_MS * stream.places).astype(np.int64), stream.values)
    own, new = whole.rows(0, stream.recorded), whole.rows(stream.recorded)
    trained = train([own], TrainConfig(layers=1, hidden=32, epochs=epochs))
    calibration = trained.manifest.calibration
    learned = [f"{calibration.event_threshold:.1f}, {calibration.level_threshold:.1f}"]
    learned += [calibration.confidence, f"{calibration.effective_readings:.0f}"]
    by_trained = _watched(TrainedDetector(Artefact(trained.manifest, trained.graph, bytes(8))), own, new)
    by_general = _watched(load_detector(model_folder("general"), names), own, new)
    return [[name, "trained", *learned, *by_trained], ["", "general", "", "", "", *by_general]]


def _watched(detector: Scanner, own: Recording, new: Recording) -> list[str]:
    """Of the half without faults: rows flagged and alerts; of the other: the faults in which a row is flagged."""
    found = scan_after(detector, own, new)
    half = NEW_ROWS // 2
    flagged = found.status == ANOMALOUS
    weeks = (new.timestamps_ms[half] - new.timestamps_ms[0]) / (1000 * WEEK_S)
    hit = sum(bool(flagged[row : row + FAULT_ROWS].any()) for row in _fault_rows(half, NEW_ROWS, FAULTS))
    return [f"{100 * flagged[:half].mean():.2f}", f"{found.alert[:half].sum()} in {weeks:.1f}", f"{hit} of {FAULTS}"]


def main() -> None:
    """Train and watch each case asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    table = Table(title="odd recordings")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name in track(options.cases.split(","), "cases"):
        for row in measure(name, options.epochs):
            table.add_row(*row)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
