"""What a lone step costs, one reading of one stream, and what a scan of one recording does; CPU time.

    python -m benchmarks.step [--rounds 5] [--before FOLDER]

`--before` measures another checkout in turn, a process for each measurement. Readings are those of the simulated pump
station, faults left out, repeated for more channels than it has; the first 300 are not counted. A figure is the least
of its rounds: what disturbs can only add.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.load import artefact
from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.detector import Scanner
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import scan
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="another checkout, measured in turn")
    options = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    found = in_turn([here] if options.before is None else [options.before, here], options.rounds)
    print("| what | " + ("before, µs | " if options.before else "") + "µs | ratio |")
    for what, us in found[-1].items():
        before = f"{found[0][what]:.1f} | " if options.before else ""
        print(f"| {what} | {before}{us:.1f} | {us / found[0][what]:.2f} |")


if __name__ == "__main__":
    main()
