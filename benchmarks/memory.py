"""Long memory: what is normal now depends on one reading, 50 to 1,000 readings ago.

    python -m benchmarks.memory [--architectures lstm,gru] [--epochs 60] [--layers 1] [--train-lag 50]
                                [--seeds 5] [--chrono 1000]

A stream has three channels: a command, one reading long; a trigger; and in the reading after the trigger, LAG readings
after the command, the response to it. Every other trigger, by chance, has no command before it and no response. A
violation is a response without a command, or none to a command. All else is noise of 0.05. The trigger says when,
and responses before are no help: without memory of the command, response and none are equally likely, and the area
under the ROC curve over all triggers is 0.5. Window methods see 100 readings.

Each network is trained once a seed, which draws recordings and weights, on recordings without violations whose lags are
mixed, from 2 to 1,000, so that each octave of lags takes the same time (with --train-lag, all lags are that one), by
the trainer: truncated back-propagation through 128 readings, the state carried on. Then 64 streams a lag go through the
detector's own steps, a quarter of their episodes violations. Figures are over the readings in which a response is due,
or none: the area under the ROC curve of the score, and the share of violations that score above all but 1 % of the
others; of several seeds the median, with the least and the largest area.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from gatewatch.models.artefact.files import Artefact
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.training.config import Architecture, TrainConfig
from gatewatch.models.training.trained.train import train

CHANNELS = ("command", "trigger", "response")
LAGS = (50, 200, 500, 1000)
SHORTEST, LONGEST = 2, 1000
NOISE, VIOLATIONS = 0.05, 0.25
RECORDINGS, READINGS, STREAMS, EPISODES = 24, 2000, 64, 6
SETTINGS: dict[str, Any] = {
    "hidden": 16, "dropout": 0, "memory": 100, "window": 128, "lanes": 8, "learning_rate": 2e-2,
    "weight_decay": 0, "held_out": 0.1,
}  # fmt: skip
"""Small windows and few lanes make 45 updates an epoch; hundreds are needed to find that a command matters."""

INTERVAL_MS = 60_000


def stream(
    rng: np.random.Generator, lags: list[int], violations: float
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """(N, 3) readings, an episode for each lag, and (N,) 1 where response or none is right, -1 where wrong, else 0."""
    pauses = rng.integers(2, 10, len(lags))
    values = rng.normal(0, NOISE, (int(sum(lags) + pauses.sum()) + 1, 3))
    kinds = np.zeros(len(values), np.int8)
    at = 0
    for lag, pause in zip(lags, pauses, strict=True):
        at += int(pause)
        commanded, right = rng.random() < 0.5, rng.random() >= violations
        values[at, 0] += commanded
        at += lag
        values[at - 1, 1] += 1
        values[at, 2] += commanded == right
        kinds[at] = 1 if right else -1
    return values.astype(np.float32), kinds


def recordings(rng: np.random.Generator, lag: int | None) -> list[Recording]:
    """Normal operation with lags of all lengths, or of one."""
    made = []
    for number in range(RECORDINGS):
        lags: list[int] = []
        while sum(lags) + 6 * len(lags) < READINGS:
            lags.append(lag or round(1 / rng.uniform(1 / LONGEST, 1 / SHORTEST)))
        values, _ = stream(rng, lags, 0.0)
        made.append(Recording(str(number), CHANNELS, INTERVAL_MS * np.arange(len(values), dtype=np.int64), values))
    return made


def scored(
    detector: TrainedDetector, rng: np.random.Generator, lag: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The scores where right and where wrong, the states of all streams carried from reading to reading."""
    made = [stream(rng, [lag] * EPISODES, VIOLATIONS) for _ in range(STREAMS)]
    length = min(len(values) for values, _ in made)
    states, right, wrong = detector.initial(STREAMS), [], []
    for row in range(length):
        values = np.array([values[row] for values, _ in made])
        step = detector.step(values, np.full(STREAMS, INTERVAL_MS * row), states)
        states = step.states
        kinds = np.array([kinds[row] for _, kinds in made])
        right += step.score[kinds > 0].tolist()
        wrong += step.score[kinds < 0].tolist()
    return np.array(right), np.array(wrong)


def area(right: NDArray[np.float64], wrong: NDArray[np.float64]) -> float:
    """Under the ROC curve: how often a wrong reading scores higher than a right one; ties count half."""
    higher = (wrong[:, None] > right).mean() + 0.5 * (wrong[:, None] == right).mean()
    return float(higher)


@dataclass(frozen=True)
class Remembered:
    """One training: area and share found by lag, held-out loss, CPU seconds of the training."""

    by_lag: list[tuple[float, float]]
    loss: float
    seconds: float


def remembers(given: list[Recording], config: TrainConfig) -> Remembered:
    """Train, then score every lag."""
    began = time.process_time()
    trained = train(given, config)
    seconds = time.process_time() - began
    detector = TrainedDetector(Artefact(trained.manifest, trained.graph, bytes(8)))
    by_lag = []
    for lag in LAGS:
        right, wrong = scored(detector, np.random.default_rng(lag), lag)
        by_lag.append((area(right, wrong), float((wrong > np.quantile(right, 0.99)).mean())))
    return Remembered(by_lag, trained.manifest.training["held_out_loss"], seconds)


def main() -> None:
    """Train, score and print, architecture by architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    live = [name for name in get_args(Architecture) if name != "bilstm"]
    parser.add_argument("--architectures", default=",".join(live))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--train-lag", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--chrono", type=int, help="see TrainConfig; the gated networks only")
    options = parser.parse_args()
    console = Console(width=140)
    table = Table(title="area under ROC, violations found at 1 % false alarms, by lag")
    for column in ("architecture", *(f"{lag}" for lag in LAGS), "loss", "training CPU s"):
        table.add_column(column, justify="right")
    how = {"epochs": options.epochs, "patience": options.epochs, "layers": options.layers, "chrono": options.chrono}
    for name in options.architectures.split(","):
        runs = []
        for seed in range(options.seeds):
            given = recordings(np.random.default_rng(seed), options.train_lag)
            runs.append(remembers(given, TrainConfig(architecture=name, seed=seed, **how, **SETTINGS)))
            console.print(name, f"seed {seed}", *(f"{area:.2f}, {found:.0%}" for area, found in runs[-1].by_lag))
        cells = []
        for at in range(len(LAGS)):
            areas, shares = zip(*(run.by_lag[at] for run in runs), strict=True)
            among = f" ({min(areas):.2f} to {max(areas):.2f})" if len(runs) > 1 else ""
            cells.append(f"{np.median(areas):.2f}{among}, {np.median(shares):.0%}")
        loss, seconds = (np.median([getattr(run, part) for run in runs]) for part in ("loss", "seconds"))
        table.add_row(name, *cells, f"{loss:.4f}", f"{seconds:.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
