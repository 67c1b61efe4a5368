"""Epochs: truncated back-propagation that carries state, early stopping, checkpoints that resume exactly."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.errors import TrainingError
from models.recordings import Recording
from models.scaling import Scaling
from models.training.architectures import Forecaster, build
from models.training.architectures.base import State
from models.training.config import TrainConfig
from models.training.windows import Window, held_out_windows, train_windows, usable

FREEDOM = 4.0
"""Degrees of freedom of the Student-t likelihood: an outlier among the recordings pulls little."""

THREADS = 1
"""Networks of this size gain nothing from a second core, and lose a factor of ten when another process wants it:
8,300 against 810 readings/s on two busy cores (2 x 32 units, 16 lanes)."""

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class EpochReport:
    """One pass over the recordings; losses in nats a value."""

    epoch: int
    train_loss: float
    held_out_loss: float
    learning_rate: float
    seconds: float


@dataclass
class Fitted:
    """A trained network, with the weights of its best epoch.

    Attributes:
        network: in evaluation mode.
        history: every epoch, also those before a resumption.
        best_epoch: the one with the lowest held-out loss, counted from 1.
        seconds: time spent in epochs, also before a resumption.
        stopped_because: for people.
        left_out: streams of the recordings that were too short to train on.
    """

    network: Forecaster
    history: list[EpochReport]
    best_epoch: int
    seconds: float
    stopped_because: str
    left_out: list[str]


@dataclass
class _Run:
    """A training under way: all that a checkpoint holds."""

    network: Forecaster
    optimiser: torch.optim.AdamW
    history: list[EpochReport] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best_loss(self) -> float:
        return self.history[self.best_epoch - 1].held_out_loss if self.best_epoch else math.inf


def fit(
    recordings: Sequence[Recording],
    scaling: Scaling,
    config: TrainConfig,
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[EpochReport], None] = lambda _: None,
) -> Fitted:
    """Train a network to forecast the next reading, on the beginning of each recording.

    The weights kept are those of the epoch that forecast the held-out ends best. The same recordings, scaling and
    config give the same weights, to the bit, on the same machine.

    Args:
        recordings: with the same channels. Those too short are left out, and named in the result.
        checkpoint: a folder; saved to after each epoch and resumed from. An interrupted and resumed training ends
            with the same weights as an uninterrupted one.
        on_epoch: told of each epoch.

    Raises:
        TrainingError: no recording is long enough or has values, a loss is not a number, or the checkpoint is of
            another training or cannot be written.
    """
    used = usable(recordings, config.held_out)
    left_out = [recording.stream for recording in recordings if not any(recording is one for one in used)]
    with torch_set(config.seed):
        run, stopped = _fit(used, scaling, config, checkpoint, on_epoch)
    run.network.load_state_dict(run.best)
    seconds = sum(report.seconds for report in run.history)
    return Fitted(run.network.eval(), run.history, run.best_epoch, seconds, stopped, left_out)


@contextmanager
def torch_set(seed: int) -> Iterator[None]:
    """Threads and random state for one training; the caller's are put back."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(THREADS)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _fit(
    recordings: Sequence[Recording],
    scaling: Scaling,
    config: TrainConfig,
    checkpoint: Path | None,
    on_epoch: Callable[[EpochReport], None],
) -> tuple[_Run, str]:
    """Epochs until something stops them, and what did."""
    network = build(config, len(recordings[0].channels))
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    run = _Run(network, optimiser)
    identity = _identity(recordings, config)
    if checkpoint is not None and (checkpoint / CHECKPOINT).exists():
        _resume(run, checkpoint / CHECKPOINT, identity)
    cut = (scaling, config.held_out, config.window, config.lanes)
    training, held_out = train_windows(recordings, *cut), held_out_windows(recordings, *cut)
    began = time.monotonic()
    while (stopped := _stopped(run, config, time.monotonic() - began)) is None:
        started = time.monotonic()
        epoch = len(run.history) + 1
        rate = _learning_rate(config, epoch)
        for group in optimiser.param_groups:
            group["lr"] = rate
        train_loss = _train(run, training, config, epoch)
        loss = _evaluate(network, held_out, epoch)
        report = EpochReport(epoch, train_loss, loss, rate, time.monotonic() - started)
        run.history.append(report)
        if loss < run.best_loss:
            run.best_epoch, run.best = epoch, copy.deepcopy(network.state_dict())
        if checkpoint is not None:
            _save(run, checkpoint, identity)
        on_epoch(report)
    return run, stopped


def negative_log_likelihood(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """-ln of the Student-t density with FREEDOM degrees of freedom, value by value, up to a constant."""
    z = (x - mean) / scale
    return torch.log(scale) + (FREEDOM + 1) / 2 * torch.log1p(z * z / FREEDOM)


def _train(run: _Run, windows: Sequence[Window], config: TrainConfig, epoch: int) -> float:
    """One pass: an update for each window, the state carried on, its gradient not. Returns the mean loss."""
    run.network.train()
    total = count = 0.0
    state: State = {}
    for number, window in enumerate(windows, 1):
        if window.first:
            state = run.network.initial(window.x.shape[1])
        mean, scale, state = run.network.unroll(window.x, window.observed, window.elapsed, state)
        state = {name: tensor.detach() for name, tensor in state.items()}
        values = float(window.counted.sum())
        if not values:
            continue
        loss = (negative_log_likelihood(window.x, mean, scale) * window.counted).sum() / values
        run.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(run.network.parameters(), config.gradient_clip)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise TrainingError(
                f"the loss is {loss.item()} in epoch {epoch}, window {number}; lower the learning rate "
                f"(now {config.learning_rate:g}), or look for absurd values in the recordings"
            )
        run.optimiser.step()
        total += loss.item() * values
        count += values
    if not count:
        raise TrainingError("no value in the training parts of the recordings; at least one channel needs some")
    return total / count


@torch.no_grad()
def _evaluate(network: Forecaster, windows: Sequence[Window], epoch: int) -> float:
    """The mean loss over the held-out parts."""
    network.eval()
    total = count = 0.0
    state: State = {}
    for window in windows:
        if window.first:
            state = network.initial(window.x.shape[1])
        mean, scale, state = network.unroll(window.x, window.observed, window.elapsed, state)
        total += float((negative_log_likelihood(window.x, mean, scale) * window.counted).sum())
        count += float(window.counted.sum())
    if not count:
        raise TrainingError("no value in the held-out parts of the recordings; raise held_out, or record longer")
    if not math.isfinite(total):
        raise TrainingError(f"the held-out loss is {total} after epoch {epoch}; lower the learning rate")
    return total / count


def _learning_rate(config: TrainConfig, epoch: int) -> float:
    """A cosine from the configured rate to a tenth of it over all epochs."""
    progress = (epoch - 1) / max(config.epochs - 1, 1)
    return config.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def _stopped(run: _Run, config: TrainConfig, seconds: float) -> str | None:
    """Why training ends here, or None."""
    done = len(run.history)
    if done >= config.epochs:
        return f"all {config.epochs} epochs done"
    if run.best_epoch and done - run.best_epoch >= config.patience:
        return f"no better held-out loss for {config.patience} epochs"
    if done and config.time_limit_s is not None and seconds >= config.time_limit_s:
        return f"time limit of {config.time_limit_s:g} s reached"
    return None


def _identity(recordings: Sequence[Recording], config: TrainConfig) -> str:
    """What a checkpoint must agree in: the settings that shape the weights, and every value of the recordings."""
    digest = hashlib.sha256(config.model_dump_json(exclude={"time_limit_s", "false_alarm_rate"}).encode())
    for recording in recordings:
        digest.update(recording.timestamps_ms.tobytes() + recording.values.tobytes())
    return digest.hexdigest()


def _save(run: _Run, folder: Path, identity: str) -> None:
    """Write a checkpoint beside its place and rename it there: a kill at any moment leaves the one before."""
    tensors = {f"network.{name}": tensor for name, tensor in run.network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in run.best.items()}
    for number, moments in run.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": tensor for name, tensor in moments.items()}
    tensors["random"] = torch.get_rng_state()
    described = {
        "identity": identity,
        "best_epoch": str(run.best_epoch),
        "history": json.dumps([asdict(report) for report in run.history]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / (CHECKPOINT + ".part")
    try:
        save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, beside, described)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(folder / CHECKPOINT)
    except (OSError, SafetensorError) as error:
        beside.unlink(missing_ok=True)
        raise TrainingError(f"{folder}: the checkpoint cannot be written: {error}; the one before is kept") from error


def _resume(run: _Run, path: Path, identity: str) -> None:
    try:
        with safe_open(path, "pt") as file:
            described = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: not a checkpoint: {error}; remove it to start anew") from error
    if described.get("identity") != identity:
        raise TrainingError(
            f"{path} is of another training: its settings or recordings differ; remove it to start anew"
        )
    run.network.load_state_dict(_below("network.", tensors))
    run.best = _below("best.", tensors)
    run.best_epoch = int(described["best_epoch"])
    run.history = [EpochReport(**report) for report in json.loads(described["history"])]
    optimiser = run.optimiser.state_dict()
    for name, tensor in _below("optimiser.", tensors).items():
        number, _, moment = name.partition(".")
        optimiser["state"].setdefault(int(number), {})[moment] = tensor
    run.optimiser.load_state_dict(optimiser)
    torch.set_rng_state(tensors["random"])


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
