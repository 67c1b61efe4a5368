"""The training that several commands begin with: its settings, its progress, and what it says when it cannot be run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from gatewatch.models.errors import GatewatchError
from gatewatch.models.recordings.labels import without_labels
from gatewatch.models.recordings.recording import Source
from gatewatch.service.cli_support.terminal import training_progress, warn

if TYPE_CHECKING:
    from gatewatch.models.training.config import TrainConfig
    from gatewatch.models.training.processes import Processes
    from gatewatch.models.training.suitability import Suitability
    from gatewatch.models.training.trained.train import Trained


@contextlib.contextmanager
def extra_needed(what: str) -> Iterator[None]:
    """Imports of what the extra `train` brings; without it, a GatewatchError says what needs it."""
    try:
        yield
    except ImportError as error:
        raise GatewatchError(f"{what} needs the extra `train`: pip install 'gatewatch[train]' ({error})") from error


def train_config(**settings: object) -> TrainConfig:
    """The config of options given; an option out of its bounds is named in a GatewatchError."""
    with extra_needed("training"):
        from gatewatch.models.training.config import TrainConfig
    try:
        return TrainConfig.model_validate(settings)
    except ValidationError as error:
        problem = error.errors()[0]
        name = "-".join(str(part) for part in problem["loc"]).replace("_", "-")
        raise GatewatchError(f"--{name} is {problem['input']!r}: {problem['msg']}") from error


def say(found: Suitability) -> None:
    """What is odd about recordings, on standard error."""
    warn("\n".join(found.lines()))


def train_detector(
    recordings: Sequence[Source],
    config: TrainConfig,
    units: dict[str, str] | None = None,
    checkpoint: Path | None = None,
    processes: Processes | None = None,
    on_examined: Callable[[Suitability], None] = say,
) -> Trained:
    """models.training.trained.train.train, with its progress and what is odd about the recordings on the terminal.

    Raises:
        GatewatchError: the extra `train` is missing, or what training raises.
    """
    with extra_needed("training"):
        from gatewatch.models.training.processes import ALONE
        from gatewatch.models.training.trained.train import train as fit_and_calibrate
    with training_progress(config.epochs) as show:
        return fit_and_calibrate(
            recordings, config, units=units, checkpoint=checkpoint, on_examined=on_examined, on_epoch=show.on_epoch,
            processes=processes or ALONE,
        )  # fmt: skip


def require_change(recordings: Sequence[Source], found: Suitability) -> None:
    """Refuse recordings in which no channel ever changes.

    One stream of many may stand still while it is recorded, and is strange when it moves; alone, that is a mistake.

    Raises:
        GatewatchError: none does.
    """
    channels = without_labels(recordings[0]).channels
    still = {finding.channel for finding in found.findings if finding.kind in ("constant", "empty")}
    if still.issuperset(channels):
        raise GatewatchError(
            f"no channel ever changes in the recordings ({', '.join(channels)}): there is nothing to learn; "
            "expected at least one that does"
        )
