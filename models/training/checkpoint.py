"""A training under way, on disk: written whole or not at all, and resumed to the bit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gatewatch.models.errors import TrainingError
from gatewatch.models.recordings.recording import Source, pieces
from gatewatch.models.training.architectures import Forecaster
from gatewatch.models.training.architectures.base import State
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.processes import Processes

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
class Progress:
    """How far the pass under way has come.

    Attributes:
        windows: trained on.
        loss, values: summed over them, and how many values that was.
        seconds: spent.
        state: of this process's lanes, as the next window finds it.
    """

    windows: int = 0
    loss: float = 0.0
    values: float = 0.0
    seconds: float = 0.0
    state: State = field(default_factory=dict)


@dataclass
class Run:
    """A training under way: all that a checkpoint holds, beside torch's random state."""

    network: Forecaster
    optimiser: torch.optim.AdamW
    history: list[EpochReport] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)

    @property
    def best_loss(self) -> float:
        """The lowest held-out loss so far."""
        return self.history[self.best_epoch - 1].held_out_loss if self.best_epoch else math.inf


def identity(recordings: Sequence[Source], config: TrainConfig) -> str:
    """What a checkpoint must agree in: the settings that shape the weights, and every value of the recordings."""
    unimportant = {"time_limit_s", "false_alarm_rate", "checkpoint_every_s"}
    return fingerprint(config.model_dump_json(exclude=unimportant | later_unused(config)), recordings)


def later_unused(config: TrainConfig) -> set[str]:
    """Settings that came after 0.2.0 and change nothing here: without their names, what began before them goes on."""
    return {name for name in ("chrono", "beta") if not getattr(config, name)}


def fingerprint(settings: str, recordings: Sequence[Source]) -> str:
    """SHA-256 of settings and of every value of recordings, which are read piece by piece."""
    digest = hashlib.sha256(settings.encode())
    for recording in recordings:
        digest.update(f"{len(recording)} x {len(recording.channels)}".encode())
        for piece in pieces(recording):
            digest.update(piece.timestamps_ms.tobytes() + piece.values.tobytes())
    return digest.hexdigest()


def save_run(run: Run, folder: Path, described_as: str, processes: Processes) -> None:
    """Write a checkpoint beside its place and rename it there: a kill at any moment leaves the one before.

    Raises:
        TrainingError: it cannot be written, for instance because the disk is full; the one before is kept.
    """
    tensors = {f"network.{name}": tensor for name, tensor in run.network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in run.best.items()}
    for number, moments in run.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": tensor for name, tensor in moments.items()}
    own = {f"state.{name}": tensor.cpu() for name, tensor in run.progress.state.items()}
    own |= {"random": torch.get_rng_state()}
    if torch.cuda.is_available():
        own |= {"random.cuda": torch.cuda.get_rng_state()}
    for rank, theirs in enumerate(processes.gather(own)):
        tensors |= {f"process.{rank}.{name}": tensor for name, tensor in theirs.items()}
    described = {
        "identity": described_as,
        "processes": str(processes.size),
        "best_epoch": str(run.best_epoch),
        "history": json.dumps([asdict(report) for report in run.history]),
        "progress": json.dumps({name: number for name, number in vars(run.progress).items() if name != "state"}),
    }
    path = folder / CHECKPOINT
    processes.lead(lambda: _replace(path, save({n: t.clone().contiguous() for n, t in tensors.items()}, described)))


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise TrainingError(
            f"{path.parent}: the checkpoint cannot be written: {error.strerror}; the one before is kept. Make room, "
            "or name another folder, then run the same command again"
        ) from error


def resume_run(run: Run, folder: Path, described_as: str, processes: Processes) -> None:
    """Go on where the checkpoint in `folder` stood; without one, at the beginning.

    Raises:
        TrainingError: it is damaged, or of another training or number of processes.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return
    try:
        with safe_open(path, "pt") as file:
            described = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: not a checkpoint: {error}; remove it to start anew") from error
    if described.get("identity") != described_as:
        raise TrainingError(
            f"{path} is of another training: its settings or recordings differ; remove it to start anew"
        )
    if described["processes"] != str(processes.size):
        raise TrainingError(
            f"{path} was saved by {described['processes']} processes, these are {processes.size}; "
            "start as many, or remove it to start anew"
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
    own = _below(f"process.{processes.rank}.", tensors)
    run.progress = Progress(**json.loads(described["progress"]), state=_below("state.", own))
    torch.set_rng_state(own["random"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(own["random.cuda"])


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
