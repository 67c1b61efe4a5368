"""TrainAnswer: what trainings came to, told as each ends or, with --json, as one object at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatewatch.models.artefact.files import Manifest
from gatewatch.models.artefact.versions import Version
from gatewatch.models.text import counted, listed
from gatewatch.service.cli_support.terminal import tell, tell_json, warn

if TYPE_CHECKING:
    from gatewatch.models.training.general.finetune import Tuned
    from gatewatch.models.training.suitability import Suitability


@dataclass
class TrainAnswer:
    """What was trained, or only looked at.

    Attributes:
        as_json: nothing is printed before the end.
        models: each by its name among several, or "".
    """

    as_json: bool
    models: dict[str, dict[str, Any]] = field(default_factory=dict)

    def checked(self, name: str, found: Suitability) -> None:
        """Recordings were looked at."""
        self.models[name] = found.as_json()
        self._tell("\n".join([*([f"{name}:"] if name else []), *found.lines()]))

    def trained(self, name: str, manifest: Manifest, folder: Path | None, title: str, **kept: object) -> None:
        """A model was trained, and saved in a folder or kept otherwise."""
        calibration, training = manifest.calibration, manifest.training
        too_short = training["too_short_and_left_out"]
        if too_short:
            warn(f"too short, left out: {listed(too_short)}")
        self.models[name] = {
            "artefact": None if folder is None else str(folder),
            **kept,
            "channels": [channel.name for channel in manifest.channels],
            "readings": training["readings"],
            "recordings": training["recordings"],
            "too_short": too_short,
            "held_out_loss": training["held_out_loss"],
            "false_alarm_rate": calibration.false_alarm_rate,
            "confidence": calibration.confidence,
            "findings": training["suitability"]["findings"],
        }
        self._tell(
            f"{title}: {training['readings']} readings of {counted(training['recordings'], 'recording')}, "
            f"held-out loss {training['held_out_loss']:.4f}, thresholds for a false-alarm rate of "
            f"{calibration.false_alarm_rate:g} with {calibration.confidence} confidence"
        )

    def tuned(self, tuned: Tuned, folder: Path, title: str) -> None:
        """The general model was trained on and saved in a folder."""
        errors = {"errors_before": tuned.before.typical, "errors_after": tuned.after.typical}
        self.models[""] = {"artefact": str(folder), **{name: list(map(float, of)) for name, of in errors.items()}}
        self._tell(f"{title}: {tuned.verdict()}")

    def added(self, model: str, version: Version) -> None:
        """What was trained is a version of a model now; its folder was temporary."""
        self.models[""] |= {
            "artefact": None, "model": model, "version": version.version, "digest": version.digest,
        }  # fmt: skip
        self._tell(f"{model}@{version.version} is {version.digest}; gatewatch models promote points a word to it")

    def end(self, failed: Mapping[str, Exception]) -> None:
        """With --json, print it all: what failed too. Of processes that train together only one has something."""
        if self.as_json and self.models:
            models = [{"name": name or None, **one} for name, one in self.models.items()]
            tell_json({"models": models, "failed": {name: str(error) for name, error in failed.items()}})

    def _tell(self, text: str) -> None:
        if not self.as_json:
            tell(text)
