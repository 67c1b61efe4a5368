"""A fleet: many models, each made alone, in whatever process or machine; the same whichever that is.

What a model is made of, its settings, units and every value, has a fingerprint. It stands in the manifest, so that a
fleet that was stopped goes on with those that are not there yet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from gatewatch.models.artefact.files import Manifest, save_artefact
from gatewatch.models.detectors.canary import canary_of
from gatewatch.models.errors import TrainingError
from gatewatch.models.recordings.recording import Source
from gatewatch.models.training.checkpoint import fingerprint
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.suitability import Suitability
from gatewatch.models.training.trained.train import train

MADE_OF: Final = "made_of"
"""Of the training's summary in the manifest."""


@dataclass(frozen=True)
class Member:
    """What one model of a fleet is made of.

    Attributes:
        gatewatch: the version that makes it: another one makes another model.
        checkpoint: a folder on this machine, to go on from.
    """

    name: str
    recordings: Sequence[Source]
    config: TrainConfig
    units: Mapping[str, str]
    checkpoint: Path | None = None
    gatewatch: str = version("gatewatch")

    def in_memory(self) -> Member:
        """The same for another process, which has not these files."""
        return replace(self, recordings=[recording.rows(0) for recording in self.recordings])

    def made_of(self) -> str:
        """SHA-256 of all that makes the model what it is."""
        named = [[recording.stream, *recording.channels] for recording in self.recordings]
        told: list[Any] = [self.gatewatch, json.loads(self.config.model_dump_json()), dict(self.units), named]
        return fingerprint(json.dumps(told, sort_keys=True), self.recordings)


@dataclass(frozen=True)
class Made:
    """A model of a fleet, as it comes back from where it was made; and what was odd about its recordings."""

    manifest: Manifest
    graph: bytes
    weights: bytes
    card: str
    canary: bytes | None
    suitability: Suitability

    def save(self, folder: Path) -> None:
        """Write the artefact. Raises ArtefactError."""
        save_artefact(folder, self.manifest, self.graph, self.weights, self.card, self.canary)


def make(member: Member) -> Made:
    """Train one model of a fleet.

    Raises:
        TrainingError: this is another gatewatch than the one that asks, or as `train` says.
        GatewatchError: as `train` says.
    """
    if member.gatewatch != version("gatewatch"):
        raise TrainingError(
            f"the worker has gatewatch {version('gatewatch')}, who asks has {member.gatewatch}; expected the same"
        )
    told: list[Suitability] = []
    trained = train(
        member.recordings,
        member.config,
        units=member.units,
        checkpoint=member.checkpoint,
        on_examined=told.append,
    )
    training = {**trained.manifest.training, MADE_OF: member.made_of()}
    manifest = trained.manifest.model_copy(update={"training": training})
    canary = canary_of(manifest, trained.graph)
    return Made(manifest, trained.graph, trained.weights, trained.card, canary, told[0])
