"""gatewatch train; and the training that other commands begin with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from models.errors import GatewatchError
from models.recordings import Recording, read_recordings, recording_files
from service.commands.terminal import Files, errors, training_progress

if TYPE_CHECKING:
    from models.training.config import TrainConfig
    from models.training.train import Trained


def train(
    files: Files,
    out: Annotated[Path, typer.Option(help="folder of the artefact to write")],
    layers: Annotated[int, typer.Option(help="LSTM layers")] = 2,
    hidden: Annotated[int, typer.Option(help="units a layer")] = 64,
    dropout: Annotated[float, typer.Option(help="share of units dropped between layers in training")] = 0.1,
    epochs: Annotated[int, typer.Option(help="most passes over the recordings")] = 60,
    time_limit_s: Annotated[float | None, typer.Option(help="end training after so many seconds")] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(help="share of normal readings that may be judged anomalous")
    ] = 0.001,
    held_out: Annotated[float, typer.Option(help="share of each recording, its end, kept for calibration")] = 0.25,
    seed: Annotated[int, typer.Option(help="the same seed and data give the same artefact")] = 0,
    unit: Annotated[list[str] | None, typer.Option(help="channel=unit, for people; may be repeated")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="folder to save to after each epoch, and to resume from")
    ] = None,
) -> None:
    """Train a detector on recordings of normal operation and write it as an artefact. Needs the extra `train`."""
    recordings = [recording for path in recording_files(files) for recording in read_recordings(path)]
    config = train_config(
        layers=layers, hidden=hidden, dropout=dropout, epochs=epochs, time_limit_s=time_limit_s,
        false_alarm_rate=false_alarm_rate, held_out=held_out, seed=seed,
    )  # fmt: skip
    trained = train_detector(recordings, config, dict(_unit(text) for text in unit or []), checkpoint)
    trained.save(out)
    calibration, training = trained.manifest.calibration, trained.manifest.training
    if training["too_short_and_left_out"]:
        errors.print(f"too short, left out: {', '.join(training['too_short_and_left_out'])}", markup=False)
    print(
        f"{out}: {training['readings']} readings of {training['recordings']} recordings, held-out loss "
        f"{training['held_out_loss']:.4f}, thresholds for a false-alarm rate of "
        f"{calibration.false_alarm_rate:g} with {calibration.confidence} confidence"
    )


def train_config(**settings: object) -> TrainConfig:
    """The config of options given; an option out of its bounds is named in a GatewatchError."""
    try:
        from models.training.config import TrainConfig
    except ImportError as error:
        raise GatewatchError(f"training needs the extra `train`: pip install 'gatewatch[train]' ({error})") from error
    try:
        return TrainConfig.model_validate(settings)
    except ValidationError as error:
        problem = error.errors()[0]
        name = "-".join(str(part) for part in problem["loc"]).replace("_", "-")
        raise GatewatchError(f"--{name} is {problem['input']!r}: {problem['msg']}") from error


def train_detector(
    recordings: Sequence[Recording],
    config: TrainConfig,
    units: dict[str, str] | None = None,
    checkpoint: Path | None = None,
) -> Trained:
    """models.training.train.train, with its progress on the terminal; a GatewatchError without the extra `train`."""
    try:
        from models.training.train import train as fit_and_calibrate
    except ImportError as error:
        raise GatewatchError(f"training needs the extra `train`: pip install 'gatewatch[train]' ({error})") from error
    with training_progress(config.epochs) as show:
        return fit_and_calibrate(recordings, config, units=units, checkpoint=checkpoint, on_epoch=show.on_epoch)


def _unit(text: str) -> tuple[str, str]:
    channel, equals, unit = text.partition("=")
    if not equals:
        raise GatewatchError(f"--unit {text!r}: expected channel=unit, as pressure=bar")
    return channel, unit
