"""Is the false-alarm rate kept that a trained model was asked for? On its own recordings, held out, and on new data.

    python -m benchmarks.quality.rates OUT [--rows 400,2000,20000] [--rates 0.001,0.01] [--seeds 1] [--plot FILE.png]

Ten kinds of normal streams (`kinds.py`) are trained on once for each number of rows and seed, for 0.001; the thresholds
of other rates are read from the tails in the artefact, as a policy's are. New data are the NEW_ROWS that follow. What
was found is kept in OUT/rates.json, and shown with what OUT already has.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.quality.kinds import CHANNELS, DAY, KINDS, normal_stream
from gatewatch.models.artefact.files import Artefact, Calibration
from gatewatch.models.detectors.detector import WARMING_UP
from gatewatch.models.detectors.trained.calibrated import ResidualCalibration
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.evaluation.threshold import threshold_for
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import Scan, scan, scan_after
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.trained.train import train
from gatewatch.models.training.trained.windows import held_out_row

NEW_ROWS = 20_000
START_MS, STEP_MS = 1_700_000_000_000, 86_400_000 // DAY
LEAST, MOST = 0.3, 1.5
"""Of the rate asked: what is to be reached."""


@dataclass(frozen=True)
class Kept:
    """One model at one rate; own, held_out and new are shares of rows judged anomalous."""

    kind: str
    rows: int
    seed: int
    rate: float
    own: float
    held_out: float
    new: float
    confidence: str


def measure(kind: str, rows: int, seed: int, rates: list[float]) -> list[Kept]:
    """Train one model, and scan its recordings and new data at each rate."""
    values = normal_stream(kind, rows + NEW_ROWS, seed).astype(np.float32)
    times = START_MS + STEP_MS * np.arange(len(values), dtype=np.int64)
    whole = Recording(kind, tuple(f"c{at}" for at in range(CHANNELS)), times, values)
    own, config = whole.rows(0, rows), TrainConfig(layers=1, hidden=32, time_limit_s=10)
    trained = train([own], config)
    held_out = held_out_row(own, config.held_out)
    found = []
    detector = TrainedDetector(Artefact(trained.manifest, trained.graph, bytes(8)))
    recorded, following = scan(detector, own), scan_after(detector, own, whole.rows(rows))
    for rate in rates:
        calibration = threshold_for(trained.manifest, rate).calibration
        before = anomalous(recorded, detector.calibration, calibration)[detector.warm_up :]
        new = anomalous(following, detector.calibration, calibration)
        own_share, held_share, new_share = (
            float(part.mean()) for part in (before, before[held_out - detector.warm_up :], new)
        )
        found.append(Kept(kind, rows, seed, rate, own_share, held_share, new_share, calibration.confidence))
    return found


def anomalous(found: Scan, own: ResidualCalibration, other: Calibration) -> NDArray[np.bool_]:
    """(N,) what would be anomalous by the thresholds of another rate, as a policy asks for one.

    What a reading teaches goes by the model's own thresholds, whatever the rate.
    """
    parts = found.parts.copy()
    parts[:, 0] *= own.event_threshold / other.event_threshold
    parts[:, 1] *= own.level_threshold / other.level_threshold
    return np.asarray((parts.max(axis=1) > 1.0) & (found.status != WARMING_UP))


def main() -> None:
    """Measure what is asked for, then show everything there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", default="400,2000,20000")
    parser.add_argument("--rates", default="0.001,0.01")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    path = options.out / "rates.json"
    kept = [Kept(**one) for one in json.loads(path.read_text())] if path.exists() else []
    rates = [float(rate) for rate in options.rates.split(",")]
    wanted = [
        (kind, int(rows), seed) for seed in range(options.seeds) for rows in options.rows.split(",") for kind in KINDS
    ]
    there = {(one.kind, one.rows, one.seed, one.rate) for one in kept}
    missing = [one for one in wanted if any((*one, rate) not in there for rate in rates)]
    for one in track(missing, "kinds"):
        kept = [was for was in kept if (was.kind, was.rows, was.seed) != one] + measure(*one, rates)
        options.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([asdict(found) for found in kept], indent=1))
    show(kept)
    if options.plot:
        plot(kept, options.plot)


def show(kept: list[Kept]) -> None:
    """Print the means over seeds of what was kept of what was asked."""
    table = Table(title="kept / asked: own, held out, new")
    cells = sorted({(one.rows, one.rate) for one in kept})
    for name in ("kind", *(f"{rows} rows, {rate:g}" for rows, rate in cells)):
        table.add_column(name, justify="right")
    for kind in KINDS:
        row = [kind]
        for rows, rate in cells:
            some = [one for one in kept if (one.kind, one.rows, one.rate) == (kind, rows, rate)]
            shares = [np.mean([getattr(one, part) for one in some]) / rate for part in ("own", "held_out", "new")]
            sure = "" if all(one.confidence == "low" for one in some) else " *"
            row.append(", ".join(f"{share:.2f}" for share in shares) + sure)
        table.add_row(*row)
    Console(width=150).print(table)
    Console().print("* of high confidence")


def plot(kept: list[Kept], path: Path) -> None:
    """Draw kept / asked of each kind, a panel for each number of rows and rate."""
    cells = sorted({(one.rows, one.rate) for one in kept})
    figure = Figure(figsize=(3.2 * len(cells), 4.5), layout="constrained")
    panels = figure.subplots(1, len(cells), sharey=True, squeeze=False)[0]
    for axes, (rows, rate) in zip(panels, cells, strict=True):
        axes.axvspan(LEAST, MOST, color="0.9")
        for part, marker in (("own", "o"), ("held_out", "x"), ("new", "D")):
            some = [one for one in kept if (one.rows, one.rate) == (rows, rate)]
            at = [[*KINDS].index(one.kind) for one in some]
            shown = [max(getattr(one, part) / rate, 0.01) for one in some]
            axes.plot(shown, at, marker, label=part.replace("_", " "), alpha=0.7, markersize=5)
        axes.set(xscale="log", xlim=(0.008, 100), title=f"{rows} rows, {rate:g} asked", xlabel="kept / asked")
        axes.set_yticks(range(len(KINDS)), [*KINDS])
    panels[0].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
