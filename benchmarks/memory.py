"""Long memory: what a reading is depends on what was 50 to 1,000 readings ago.

    python -m benchmarks.memory [--task bit|adding|order|noisy] [--architectures lstm,gru] [--epochs 60] [--layers 1]
                                [--train-lag 50] [--seeds 5] [--first-seed 0] [--chrono 1000] [--beta 0.5]

Streams of one of four tasks, which benchmarks/memory_tasks.py describes: one bit to be kept, and those by which the
LSTM was introduced. Nothing but memory says what is due at the end of an episode; a trigger says when.

Each network is trained once a seed, which draws recordings and weights, on recordings without violations whose lags are
mixed, from 2 to 1,000, so that each octave of lags takes the same time (with --train-lag, all lags are that one), by
the trainer: truncated back-propagation through 128 readings, the state carried on. Window methods see 100 readings.
Then come 64 streams a lag. Figures are over the readings in which an answer is due; of several seeds the median, with
the least and the largest of the first figure.

- `bit`: the streams go through the detector's own steps, a quarter of their episodes violations. The area under the ROC
  curve of the score, 0.5 without memory, and the share of violations that score above all but 1 % of the others.
- `adding`, `noisy`: the share of the variance of what is due that the network's forecast explains, 0 without memory.
- `order`: the share of answers that the forecast tells, 0.25 without memory.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.memory_tasks import TASKS, Task, explained, told
from gatewatch.models.artefact.files import Artefact
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.training.architectures import Forecaster
from gatewatch.models.training.config import Architecture, TrainConfig
from gatewatch.models.training.trained.loop import fit
from gatewatch.models.training.trained.train import train

LAGS = {"bit": (50, 200, 500, 1000), "adding": (100, 500, 1000), "order": (100, 500, 1000), "noisy": (100, 500, 1000)}
FIGURES = {
    "bit": "area under ROC, violations found at 1 % false alarms", "adding": "variance explained", "order": "right",
    "noisy": "variance explained",
}  # fmt: skip
SHORTEST, LONGEST = 2, 1000
VIOLATIONS = 0.25
RECORDINGS, READINGS, STREAMS, EPISODES = 24, 2000, 64, 6
SETTINGS: dict[str, Any] = {
    "hidden": 16, "dropout": 0, "memory": 100, "window": 128, "lanes": 8, "learning_rate": 2e-2,
    "weight_decay": 0, "held_out": 0.1,
}  # fmt: skip
"""Small windows and few lanes make 45 updates an epoch; hundreds are needed to find that a command matters."""

INTERVAL_MS = 60_000


def recordings(rng: np.random.Generator, task: Task, lag: int | None) -> list[Recording]:
    """Normal operation with lags of all lengths, or of one."""
    made = []
    for number in range(RECORDINGS):
        lags: list[int] = []
        while sum(lags) + 6 * len(lags) < READINGS:
            lags.append(lag or round(1 / rng.uniform(1 / LONGEST, 1 / SHORTEST)))
        values, _ = task.stream(rng, lags, 0.0)
        made.append(Recording(str(number), task.channels, INTERVAL_MS * np.arange(len(values), dtype=np.int64), values))
    return made


def scored(
    detector: TrainedDetector, rng: np.random.Generator, lag: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`bit`: the scores where right and where wrong, the states of all streams carried from reading to reading."""
    made = [TASKS["bit"].stream(rng, [lag] * EPISODES, VIOLATIONS) for _ in range(STREAMS)]
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


@torch.no_grad()
def forecast(
    network: Forecaster, scaling: Scaling, task: Task, rng: np.random.Generator, lag: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, A) forecasts of what is due, and what it is; standardised units. The network unrolls, its state carried."""
    made = [task.stream(rng, [lag] * EPISODES, 0.0) for _ in range(STREAMS)]
    length = min(len(values) for values, _ in made)
    values = scaling.standardise(np.stack([values[:length] for values, _ in made], axis=1))
    due = np.stack([kinds[:length] for _, kinds in made], axis=1) > 0
    state, means = network.initial(STREAMS), []
    for x in torch.from_numpy(values).split(SETTINGS["window"]):
        mean, _, state = network.unroll(x, torch.ones_like(x), torch.zeros_like(x[..., :1]), state)
        means.append(mean.numpy())
    answers = np.s_[:, -task.answers :]
    return np.concatenate(means)[due][answers].astype(np.float64), values[due][answers].astype(np.float64)


def area(right: NDArray[np.float64], wrong: NDArray[np.float64]) -> float:
    """Under the ROC curve: how often a wrong reading scores higher than a right one; ties count half."""
    higher = (wrong[:, None] > right).mean() + 0.5 * (wrong[:, None] == right).mean()
    return float(higher)


@dataclass(frozen=True)
class Remembered:
    """One training: the figures by lag, held-out loss, CPU seconds of the training."""

    by_lag: list[tuple[float, ...]]
    loss: float
    seconds: float


def remembers(given: list[Recording], config: TrainConfig, task: str) -> Remembered:
    """Train, then look at every lag."""
    began = time.process_time()
    if task == "bit":
        trained = train(given, config)
        fitted, detector = trained.fitted, TrainedDetector(Artefact(trained.manifest, trained.graph, bytes(8)))
    else:
        scaling = Scaling.fit(given)
        fitted = fit(given, scaling, config)
    seconds = time.process_time() - began
    by_lag: list[tuple[float, ...]] = []
    for lag in LAGS[task]:
        rng = np.random.default_rng(lag)
        if task == "bit":
            right, wrong = scored(detector, rng, lag)
            by_lag.append((area(right, wrong), float((wrong > np.quantile(right, 0.99)).mean())))
        else:
            forecasts, answers = forecast(fitted.network, scaling, TASKS[task], rng, lag)
            by_lag.append(((told if task == "order" else explained)(forecasts, answers),))
    return Remembered(by_lag, fitted.history[fitted.best_epoch - 1].held_out_loss, seconds)


def main() -> None:
    """Train, score and print, architecture by architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    live = [name for name in get_args(Architecture) if name != "bilstm"]
    parser.add_argument("--task", choices=TASKS, default="bit")
    parser.add_argument("--architectures", default=",".join(live))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--train-lag", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--chrono", type=int, help="see TrainConfig; the gated networks only")
    parser.add_argument("--beta", type=float, default=0.0, help="see TrainConfig")
    options = parser.parse_args()
    console = Console(width=140)
    table = Table(title=f"{options.task}: {FIGURES[options.task]}, by lag")
    for column in ("architecture", *(f"{lag}" for lag in LAGS[options.task]), "loss", "training CPU s"):
        table.add_column(column, justify="right")
    how: dict[str, Any] = {"epochs": options.epochs, "patience": options.epochs, "layers": options.layers}
    how |= {"chrono": options.chrono, "beta": options.beta}
    for name in options.architectures.split(","):
        runs = []
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            given = recordings(np.random.default_rng(seed), TASKS[options.task], options.train_lag)
            config = TrainConfig(architecture=name, seed=seed, **how, **SETTINGS)
            runs.append(remembers(given, config, options.task))
            console.print(name, f"seed {seed}", *map(cell, runs[-1].by_lag))
        cells = []
        for by_seed in zip(*(run.by_lag for run in runs), strict=True):
            first, *others = np.median(by_seed, axis=0)
            least, largest = min(by_seed)[0], max(by_seed)[0]
            among = f" ({least:.2f} to {largest:.2f})" if len(runs) > 1 else ""
            cells.append(", ".join([f"{first:.2f}{among}", *(f"{other:.0%}" for other in others)]))
        loss, seconds = (np.median([getattr(run, part) for run in runs]) for part in ("loss", "seconds"))
        table.add_row(name, *cells, f"{loss:.4f}", f"{seconds:.0f}")
    console.print(table)


def cell(figures: tuple[float, ...]) -> str:
    """The figures of one lag: the first as a number, a second as a percentage."""
    first, *others = figures
    return ", ".join([f"{first:.2f}", *(f"{other:.0%}" for other in others)])


if __name__ == "__main__":
    main()
