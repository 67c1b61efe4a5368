"""Epochs: truncated back-propagation that carries state, early stopping, checkpoints that resume exactly."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.errors import TrainingError
from gatewatch.models.recordings.recording import Source
from gatewatch.models.training.architectures import Forecaster, build
from gatewatch.models.training.architectures.base import State
from gatewatch.models.training.checkpoint import EpochReport, Progress, Run, identity, resume_run, save_run
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.processes import ALONE, Processes
from gatewatch.models.training.trained.windows import Window, held_out_windows, train_windows, usable

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

__all__ = ["EpochReport", "Fitted", "fit", "negative_log_likelihood", "torch_set"]

FREEDOM = 4.0
"""Degrees of freedom of the Student-t likelihood: an outlier among the recordings pulls little."""

THREADS = 1
"""Networks of this size gain nothing from a second core, and lose a factor of ten when another process wants it:
8,300 against 810 readings/s on two busy cores (2 x 32 units, 16 lanes)."""


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


def fit(
    recordings: Sequence[Source],
    scaling: Scaling,
    config: TrainConfig,
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[EpochReport], None] = lambda _: None,
    processes: Processes = ALONE,
) -> Fitted:
    """Train a network to forecast the next reading, on the beginning of each recording.

    The weights kept are those of the epoch that forecast the held-out ends best. The same recordings, scaling and
    config give the same weights, to the bit, on the same machine.

    Args:
        recordings: with the same channels. Those too short are left out, and named in the result.
        checkpoint: a folder; saved to after each epoch, and within it every `checkpoint_every_s`, and resumed from. An
            interrupted and resumed training ends with the same weights as an uninterrupted one.
        on_epoch: told of each epoch.
        processes: those that train this network together; each must be given the same recordings.

    Raises:
        TrainingError: no recording is long enough or has values, a loss is not a number, or the checkpoint is of
            another training or cannot be written.
    """
    used = usable(recordings, config.held_out)
    left_out = [recording.stream for recording in recordings if not any(recording is one for one in used)]
    with torch_set(config.seed):
        run, stopped = _fit(used, scaling, config, checkpoint, on_epoch, processes)
    run.network.load_state_dict(run.best)
    seconds = sum(report.seconds for report in run.history)
    return Fitted(run.network.cpu().eval(), run.history, run.best_epoch, seconds, stopped, left_out)


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
    recordings: Sequence[Source],
    scaling: Scaling,
    config: TrainConfig,
    checkpoint: Path | None,
    on_epoch: Callable[[EpochReport], None],
    processes: Processes,
) -> tuple[Run, str]:
    """Epochs until something stops them, and what did."""
    network = build(config, len(recordings[0].channels)).to(DEVICE)
    if not processes.leads:
        torch.manual_seed(config.seed + processes.rank)  # all begin with the same weights, and drop other units
    optimiser = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    run = Run(network, optimiser)
    save: Callable[[], None] = lambda: None  # noqa: E731 - a def would need a name of its own
    if checkpoint is not None:
        described = identity(recordings, config)
        resume_run(run, checkpoint, described, processes)
        save = partial(save_run, run, checkpoint, described, processes)
    cut = (scaling, config.held_out, config.window, config.lanes, processes)
    training, held_out = train_windows(recordings, *cut), held_out_windows(recordings, *cut)
    began = time.monotonic()
    while (stopped := _stopped(run, config, _shared(time.monotonic() - began, processes))) is None:
        started = time.monotonic() - run.progress.seconds
        epoch = len(run.history) + 1
        rate = _learning_rate(config, epoch)
        for group in run.optimiser.param_groups:
            group["lr"] = rate
        train_loss = _train(run, training, config, processes, save)
        loss = _evaluate(network, held_out, epoch, processes)
        report = EpochReport(epoch, train_loss, loss, rate, time.monotonic() - started)
        run.history.append(report)
        run.progress = Progress()
        if loss < run.best_loss:
            run.best_epoch, run.best = epoch, copy.deepcopy(network.state_dict())
        save()
        if processes.leads:
            on_epoch(report)
    return run, stopped


def _shared(seconds: float, processes: Processes) -> float:
    """The same for all processes, so that they stop together."""
    return float(processes.sum(torch.tensor([seconds], device=DEVICE))) / processes.size


def negative_log_likelihood(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """-ln of the Student-t density with FREEDOM degrees of freedom, value by value, up to a constant."""
    z = (x - mean) / scale
    return torch.log(scale) + (FREEDOM + 1) / 2 * torch.log1p(z * z / FREEDOM)


def _train(
    run: Run, windows: Sequence[Window], config: TrainConfig, processes: Processes, save: Callable[[], None]
) -> float:
    """The rest of a pass: an update for each window, the state carried on, its gradient not. Returns the mean loss.

    Saved on the way every `checkpoint_every_s`.
    """
    run.network.train()
    progress, epoch = run.progress, len(run.history) + 1
    resumed, began = progress.seconds, time.monotonic()
    saved = began
    for number in range(progress.windows, len(windows)):
        now = time.monotonic()
        progress.seconds = resumed + now - began
        window = windows[number].to(DEVICE)
        state = run.network.initial(window.x.shape[1]) if window.first else progress.state
        loss, progress.state = _loss(run.network, window, state, config.beta)
        run.optimiser.zero_grad()
        if loss.requires_grad:
            loss.backward()
        due = now - saved >= config.checkpoint_every_s and processes.leads
        told = torch.tensor([loss.item(), window.counted.sum(), due])
        total, values, due_for_all = processes.sum_gradients(run.network, told).tolist()
        progress.windows = number + 1
        if values:
            for parameter in run.network.parameters():
                if parameter.grad is not None:
                    parameter.grad /= values
            norm = torch.nn.utils.clip_grad_norm_(run.network.parameters(), config.gradient_clip)
            if not (math.isfinite(total) and torch.isfinite(norm)):
                raise TrainingError(
                    f"the loss is {total / values} in epoch {epoch}, window {number + 1} of {len(windows)}; lower the "
                    f"learning rate (now {config.learning_rate:g}), or look for absurd values in the recordings"
                )
            run.optimiser.step()
            progress.loss += total
            progress.values += values
        if due_for_all:
            save()
            saved = time.monotonic()
    if not progress.values:
        raise TrainingError("no value in the training parts of the recordings; at least one channel needs some")
    return progress.loss / progress.values


def _loss(network: Forecaster, window: Window, state: State, beta: float = 0.0) -> tuple[Tensor, State]:
    """The loss summed over the values that count, and the state after the window, cut off from its past.

    A likelihood's gradient is divided by the scale that the network itself gives. Where it has no forecast yet it gives
    a wide one, and so hardly learns any. With beta the loss of each value is multiplied by its scale to the power of
    2 beta, through which no gradient goes; 1/2 takes the division away.

    Source: Seitzer et al. 2022, "On the pitfalls of heteroscedastic uncertainty estimation with probabilistic neural
    networks", equation 5.
    """
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
        mean, scale, state = network.unroll(window.x, window.observed, window.elapsed, state)
    mean, scale = mean.float(), scale.float()
    losses = negative_log_likelihood(window.x, mean, scale)
    if beta:
        losses = losses * scale.detach() ** (2 * beta)
    return (losses * window.counted).sum(), {name: tensor.detach().float() for name, tensor in state.items()}


@torch.no_grad()
def _evaluate(network: Forecaster, windows: Sequence[Window], epoch: int, processes: Processes = ALONE) -> float:
    """The mean loss over the held-out parts."""
    network.eval()
    total = count = 0.0
    state: State = {}
    for window in (each.to(DEVICE) for each in windows):
        if window.first:
            state = network.initial(window.x.shape[1])
        loss, state = _loss(network, window, state)
        total += float(loss)
        count += float(window.counted.sum())
    sums = processes.sum(torch.tensor([total, count], dtype=torch.float64, device=DEVICE))
    total, count = float(sums[0]), float(sums[1])
    if not count:
        raise TrainingError("no value in the held-out parts of the recordings; raise held_out, or record longer")
    if not math.isfinite(total):
        raise TrainingError(
            f"the held-out loss is {total / count} after epoch {epoch}; lower the learning rate, or look for absurd "
            "values in the recordings"
        )
    return total / count


def _learning_rate(config: TrainConfig, epoch: int) -> float:
    """A cosine from the configured rate to a tenth of it over all epochs."""
    progress = (epoch - 1) / max(config.epochs - 1, 1)
    return config.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def _stopped(run: Run, config: TrainConfig, seconds: float) -> str | None:
    """Why training ends here, or None."""
    done = len(run.history)
    if done >= config.epochs:
        return f"all {config.epochs} epochs done"
    if run.best_epoch and done - run.best_epoch >= config.patience:
        return f"no better held-out loss for {config.patience} epochs"
    if done and config.time_limit_s is not None and seconds >= config.time_limit_s:
        return f"time limit of {config.time_limit_s:g} s reached"
    return None
