"""Settings found by search: many short trainings, the hopeless ones ended early, the best settings kept.

A tree-structured Parzen estimator (Bergstra et al. 2011) proposes settings; a training whose held-out loss is worse
than the median of those before at the same epoch is ended. Every training is kept in a journal, a text file to which
lines are only added, so that a search that was stopped goes on where it was. What is proposed depends on the seed and
the trainings before, not on how often the search was stopped: the same seed and number give the same settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.errors import TrainingError
from gatewatch.models.recordings.recording import Source
from gatewatch.models.training.checkpoint import EpochReport, fingerprint, later_unused
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.trained.loop import fit
from gatewatch.models.training.trained.train import same_channels
from gatewatch.models.training.trained.windows import usable

JOURNAL = "study.journal"
NAME = "gatewatch"

WHOLE = {"layers": (1, 3), "hidden": (16, 256), "window": (32, 256)}
REAL = {"dropout": (0.0, 0.4), "learning_rate": (5e-4, 2e-2), "weight_decay": (1e-5, 1e-1)}
LOGARITHMIC = ("hidden", "window", "learning_rate", "weight_decay")
"""What is searched: settings that every architecture has, and their bounds. The settings given are tried first, and
widen the bounds if they lie outside."""

LEAST = 1e-8
"""Instead of 0, which has no logarithm."""

STARTUP = 5
"""Trainings proposed at random, and finished before any is ended early."""

LEAST_EPOCHS = 3
"""At which a training ends early at the earliest."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Trial:
    """One training of a search.

    Attributes:
        number: from 1.
        settings: the ones searched.
        loss: held out, of the best epoch, nats a value; None of a training that was ended early.
    """

    number: int
    settings: dict[str, Any]
    loss: float | None


def tune(
    recordings: Sequence[Source],
    config: TrainConfig,
    trials: int,
    study_folder: Path,
    *,
    on_epoch: Callable[[int, EpochReport], None] = lambda *_: None,
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> TrainConfig:
    """Search until so many trainings are in the study, those of earlier runs counted, and give the best settings.

    Args:
        recordings: to train on, as for models.training.trained.train.
        config: the settings tried first; all that are not searched stay as they are. A time limit holds for each
            training, and makes the outcome depend on the machine's speed.
        trials: trainings in all.
        study_folder: where the journal lies; begun if it is not there.
        on_epoch: told of each epoch, and of which training.
        on_trial: told of each training that ends here.

    Raises:
        TrainingError: the study is of other recordings or settings or cannot be read or written, too little data, or
            no training came to its end.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    aligned = same_channels(recordings)
    scaling = Scaling.fit(usable(aligned, config.held_out))
    study = _open(study_folder, _identity(aligned, config))
    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):  # stopped in the middle; done again
        study.tell(left.number, state=TrialState.FAIL)
    problem = ""
    while (done := len(study.get_trials(deepcopy=False, states=FINISHED))) < trials:
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=(config.seed + done) % 2**32)
        if done == 0:
            study.enqueue_trial(_given(config))
        trial = study.ask()
        settings = _propose(trial, config)
        watch = _Watch(trial, done + 1, on_epoch)
        try:
            fitted = fit(aligned, scaling, config.model_copy(update=settings), on_epoch=watch)
            loss = fitted.history[fitted.best_epoch - 1].held_out_loss
            study.tell(trial, loss)
        except (optuna.TrialPruned, TrainingError) as error:  # hopeless, or the loss was not a number
            loss, problem = None, f", the last with: {error}" if isinstance(error, TrainingError) else problem
            study.tell(trial, state=TrialState.PRUNED)
        on_trial(Trial(done + 1, settings, loss))
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        raise TrainingError(f"none of {done} trainings came to its end{problem}; give other settings to begin with")
    best = min(complete, key=_loss)
    return config.model_copy(update=best.params)


class _Watch:
    """Tells the study of each epoch, and ends a training that is worse than most."""

    def __init__(self, trial: optuna.Trial, number: int, on_epoch: Callable[[int, EpochReport], None]) -> None:
        self._trial, self._number, self._on_epoch = trial, number, on_epoch

    def __call__(self, report: EpochReport) -> None:
        self._on_epoch(self._number, report)
        self._trial.report(report.held_out_loss, report.epoch)
        if self._trial.should_prune():
            raise optuna.TrialPruned


def _given(config: TrainConfig) -> dict[str, Any]:
    """The settings that are searched, as they were given."""
    given = {name: getattr(config, name) for name in (*WHOLE, *REAL)}
    return given | {name: max(given[name], LEAST) for name in LOGARITHMIC}


def _propose(trial: optuna.Trial, config: TrainConfig) -> dict[str, Any]:
    """The settings of the next training, within bounds that hold those given."""
    given, proposed = _given(config), {}
    for name, (low, high) in (WHOLE | REAL).items():
        bounds = min(low, given[name]), max(high, given[name])
        suggest: Any = trial.suggest_int if name in WHOLE else trial.suggest_float
        proposed[name] = suggest(name, *bounds, log=name in LOGARITHMIC)
    return proposed


def _open(folder: Path, identity: str) -> optuna.Study:
    """The study in a folder, or a new one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        pruner = optuna.pruners.MedianPruner(STARTUP, LEAST_EPOCHS)
        study = optuna.create_study(storage=storage, study_name=NAME, pruner=pruner, load_if_exists=True)
        if not study.user_attrs:
            study.set_user_attr("identity", identity)
        known = study.user_attrs["identity"]
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(
            f"{folder / JOURNAL}: not a study that can be used: {error}; name another folder"
        ) from error
    if known != identity:
        raise TrainingError(f"{folder} holds a study of other recordings or settings; name another folder")
    return study


def _identity(recordings: Sequence[Source], config: TrainConfig) -> str:
    """What the runs of a search must agree in: the settings, the bounds, and every value of the recordings."""
    settings = config.model_dump_json(exclude={"false_alarm_rate", "checkpoint_every_s"} | later_unused(config))
    return fingerprint(settings + repr((WHOLE, REAL)), recordings)


def _loss(trial: FrozenTrial) -> float:
    return trial.value if trial.value is not None else float("inf")
