"""The search of `gatewatch train --tune`, with its progress on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gatewatch.models.recordings.recording import Source
from gatewatch.service.cli_support.terminal import tell, training_progress, warn
from gatewatch.service.cli_support.trainings import extra_needed

if TYPE_CHECKING:
    from gatewatch.models.training.config import TrainConfig
    from gatewatch.models.training.trained.tune import Trial


def search(recordings: Sequence[Source], config: TrainConfig, trials: int, study: Path) -> TrainConfig:
    """models.training.trained.tune.tune; a GatewatchError without the extra `train`."""
    with extra_needed("--tune"):
        from gatewatch.models.training.trained.tune import JOURNAL, tune

    def say(trial: Trial) -> None:
        outcome = "ended early" if trial.loss is None else f"held-out loss {trial.loss:.4f}"
        warn(f"{trial.number} of {trials}: {outcome}: {_settings(trial.settings)}")

    with training_progress(config.epochs) as show:
        best = tune(
            recordings, config, trials, study,
            on_epoch=lambda number, report: show.on_epoch(report, f"search, {number} of {trials}"),
            on_trial=say,
        )  # fmt: skip
    found = {name: getattr(best, name) for name in ("layers", "hidden", "window")}
    found |= {name: getattr(best, name) for name in ("dropout", "learning_rate", "weight_decay")}
    tell(f"best of the search in {study / JOURNAL}: {_settings(found)}")
    return best


def _settings(settings: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in settings.items())
