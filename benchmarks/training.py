"""Training throughput of each architecture beside the plainest loop around torch.nn.LSTM, and what a step costs.

    python -m benchmarks.training [--rounds 5]

2 layers of 64 units, 8 channels, memory 64, 64 lanes of 512 readings without gaps, windows of 64 readings; readings a
second of CPU time on one core. The plainest loop has the same LSTM layers, a linear head, squared errors and Adam, and
no timestamps, missing values, scales, clipping or bookkeeping. The rounds of all are interleaved, and a ratio is the
median over rounds: the machine's load then weighs on both alike. Steps are those of the exported graph.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import get_args

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from gatewatch.models.artefact.graph import open_session
from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.training.architectures import CellForecaster, build, state_bytes
from gatewatch.models.training.checkpoint import Progress, Run
from gatewatch.models.training.config import Architecture, TrainConfig
from gatewatch.models.training.export import export_step
from gatewatch.models.training.processes import ALONE
from gatewatch.models.training.trained import loop
from gatewatch.models.training.trained.windows import train_windows

CHANNELS, LANES, READINGS = 8, 64, 512


def recordings() -> list[Recording]:
    """Noise, one reading a second; a tenth is held out."""
    rng = np.random.default_rng(0)
    names, times = tuple(f"c{n}" for n in range(CHANNELS)), 1000 * np.arange(READINGS * 10 // 9 + 1, dtype=np.int64)
    return [
        Recording(str(n), names, times, rng.normal(size=(len(times), CHANNELS)).astype(np.float32))
        for n in range(LANES)
    ]


def plainest(given: list[Recording], config: TrainConfig) -> Callable[[], None]:
    """One epoch of what people write first."""
    network = nn.ModuleList(
        [nn.LSTM(CHANNELS, config.hidden, config.layers, dropout=config.dropout), nn.Linear(config.hidden, CHANNELS)]
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    x = torch.from_numpy(np.stack([recording.values[: READINGS + 1] for recording in given], axis=1))  # (T + 1, B, C)

    def epoch() -> None:
        state = None
        for start in range(0, READINGS, config.window):
            piece = x[start : start + config.window + 1]
            tops, state = network[0](piece[:-1], state)
            loss = (network[1](tops) - piece[1:]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            state = tuple(tensor.detach() for tensor in state)

    return epoch


def trainer(given: list[Recording], config: TrainConfig) -> Callable[[], None]:
    """One epoch of the trainer."""
    network = build(config, CHANNELS)
    run = Run(network, torch.optim.AdamW(network.parameters(), lr=config.learning_rate, fused=True))
    windows = train_windows(given, Scaling.fit(given), 0.1, config.window, config.lanes)

    def epoch() -> None:
        run.progress = Progress()
        loop._train(run, windows, config, ALONE, lambda: None)

    return epoch


def step_us(session: onnxruntime.InferenceSession, streams: int) -> float:
    """Microseconds of CPU time of one step of so many streams: the median of many."""
    feed = {i.name: np.zeros((streams, *i.shape[1:]), np.float32) for i in session.get_inputs()}
    times = []
    for _ in range(300 if streams == 1 else 20):
        began = time.process_time()
        session.run(None, feed)
        times.append(time.process_time() - began)
    return statistics.median(times) * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    given = recordings()
    configs = {name: TrainConfig(architecture=name, lanes=LANES, dropout=0.1) for name in get_args(Architecture)}
    epochs: dict[str, Callable[[], None]] = {"torch.nn.LSTM, plainest loop": plainest(given, configs["lstm"])}
    epochs |= {name: trainer(given, config) for name, config in configs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(options.rounds):
        for name, epoch in epochs.items():
            began = time.process_time()
            epoch()
            seconds[name].append(time.process_time() - began)
    table = Table(title=f"{options.rounds} rounds of {LANES * READINGS:,} readings")
    for column in ("architecture", "readings/s", "of the plain loop", "step of 1, µs", "of 1,000, µs", "state"):
        table.add_column(column, justify="right")
    plain = seconds["torch.nn.LSTM, plainest loop"]
    for name, spent in seconds.items():
        ratio = statistics.median(p / s for p, s in zip(plain, spent, strict=True))
        cells = [f"{LANES * READINGS / statistics.median(spent):,.0f}", f"{ratio:.2f}"]
        if name in configs and isinstance(network := build(configs[name], CHANNELS), CellForecaster):
            session = open_session(export_step(network))
            cells += [f"{step_us(session, 1):.0f}", f"{step_us(session, 1000) / 1000:.1f}", f"{state_bytes(network):,}"]
        table.add_row(name, *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
