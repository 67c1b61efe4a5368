"""What a lone step costs, one reading of one stream, and what a scan of one recording does; CPU time.

    python -m benchmarks.step [--rounds 5] [--before FOLDER]
    python -m benchmarks.step --equal 100000

`--before` measures another checkout in turn, a process for each measurement. Readings are those of the simulated pump
station, faults left out, repeated for more channels than it has; the first 300 are not counted. A figure is the least
of its rounds: what disturbs can only add.

`--equal` instead takes so many readings of synthetic series of all kinds, 1 to 8 channels wide, by both ways of each
detector, in numbers and in arrays, and counts where a word of the answer or of the state is not the same to the bit.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import cast

import numpy as np

from benchmarks.load import artefact
from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.detector import Scanner, Step
from gatewatch.models.detectors.general.detector import GeneralDetector, load_detector
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import scan
from gatewatch.models.training.general.synthetic import generate
from gatewatch.service.demo.station import RECORDINGS_START_MS, simulate

SETTLED, ROWS = 300, 1000
SETTLED_AT_ONCE, ROWS_AT_ONCE, BULK = 40, 20, 1000


def measured() -> dict[str, float]:
    """Microseconds of CPU by what was measured, in this checkout."""
    recording = simulate(RECORDINGS_START_MS, SETTLED + ROWS, seed=7)[0]
    with tempfile.TemporaryDirectory() as scratch:
        large = TrainedDetector.load(artefact(Path(scratch) / "artefact"))
    detectors: dict[str, Scanner] = {
        "trained, 5 channels, 2 x 32": load_detector(model_folder("demo")),
        "trained, 8 channels, 2 x 64": large,
    }
    for channels in (1, 3, 8):
        names = [f"c{channel}" for channel in range(channels)]
        detectors[f"general, {channels} channel{'s' if channels > 1 else ''}"] = load_detector(
            model_folder("general"), names
        )
    found = {}
    for what, detector in detectors.items():
        channels = len(detector.channels)
        values = recording.values[:, np.arange(channels) % recording.values.shape[1]].astype(np.float64)
        if detector is large:  # whose units are standardised ones
            values = (values - np.nanmean(values, 0)) / np.nanstd(values, 0)
        one = Recording("s", detector.channels, recording.timestamps_ms, values.astype(np.float32))
        found[f"{what}: a lone step"] = _step_us(detector, one, 1, SETTLED, ROWS)
        found[f"{what}: a reading of {BULK} at once"] = _step_us(detector, one, BULK, SETTLED_AT_ONCE, ROWS_AT_ONCE)
        began = time.process_time()
        scan(detector, one)
        found[f"{what}: a row of a scan"] = (time.process_time() - began) / len(one) * 1e6
    return found


def _step_us(detector: Scanner, recording: Recording, streams: int, settled: int, rows: int) -> float:
    """Of a reading, so many streams at once, after so many that are not counted."""
    states = detector.initial(streams)
    values = np.repeat(recording.values[: settled + rows, None].astype(np.float64), streams, 1)
    times = np.repeat(recording.timestamps_ms[: settled + rows, None], streams, 1)
    began = 0.0
    for row in range(settled + rows):
        if row == settled:
            began = time.process_time()
        detector.advance(values[row], times[row], states)
    return (time.process_time() - began) / rows / streams * 1e6


def in_turn(folders: list[Path], rounds: int) -> list[dict[str, float]]:
    """The least of all rounds, of each checkout."""
    found: list[dict[str, float]] = [{} for _ in folders]
    code = f"import json, runpy; print(json.dumps(runpy.run_path({str(Path(__file__).resolve())!r})['measured']()))"
    for _ in range(rounds):
        for at, folder in enumerate(folders):
            said = subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True)
            for what, us in json.loads(said.stdout).items():
                found[at][what] = min(us, found[at].get(what, us))
    return found


def compared(readings: int) -> None:
    """Take readings both ways, each from the state that arrays left, and print how many differ."""
    rows, seen, alone, differ = 2000, 0, Counter[str](), Counter[str]()
    for seed in count():
        for model, channels in (("general", 1), ("general", 3), ("general", 8), ("trained", 5)):
            corpus = generate(channels, rows, seed)
            values, times = corpus.values.T.astype(np.float64), corpus.timestamps_ms[0]
            detector: TrainedDetector | GeneralDetector
            if model == "trained":
                detector = demo = TrainedDetector.load(model_folder("demo"))
                values = (values - np.nanmean(values, 0)) / np.maximum(np.nanstd(values, 0), 1e-9)
                values = values * demo.scaling.spread + demo.scaling.center
            else:
                names = [f"c{channel}" for channel in range(channels)]
                detector = cast("GeneralDetector", load_detector(model_folder("general"), names))
            states, what = detector.initial(1), f"{model}, {channels} channel{'s' if channels > 1 else ''}"
            for row in range(rows):
                reading, by_numbers = (values[row : row + 1], times[row : row + 1]), states.copy()
                found = detector.advance_alone(*reading, by_numbers)
                expected = detector.advance_together(*reading, states)
                if found is not None:
                    alone[what] += 1
                    differ[what] += not _same(found, expected)
                seen += 1
                if seen == readings:
                    print(f"{seen} readings; in numbers: {dict(alone)}; of these differ: {dict(differ)}")
                    return


def _same(one: Step, other: Step) -> bool:
    """To the bit, but for the sign of a zero in a state."""
    words = (field.name for field in dataclasses.fields(Step) if field.name != "states")
    names = one.states.dtype.names or ()
    return all(getattr(one, word).tobytes() == getattr(other, word).tobytes() for word in words) and all(
        np.array_equal(one.states[name], other.states[name], equal_nan=one.states[name].dtype.kind == "f")
        for name in names
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="another checkout, measured in turn")
    parser.add_argument("--equal", type=int, metavar="READINGS", help="compare both ways instead of measuring")
    options = parser.parse_args()
    if options.equal:
        compared(options.equal)
        return
    here = Path(__file__).resolve().parents[1]
    found = in_turn([here] if options.before is None else [options.before, here], options.rounds)
    print("| what | " + ("before, µs | " if options.before else "") + "µs | ratio |")
    for what, us in found[-1].items():
        before = f"{found[0][what]:.1f} | " if options.before else ""
        print(f"| {what} | {before}{us:.1f} | {us / found[0][what]:.2f} |")


if __name__ == "__main__":
    main()
