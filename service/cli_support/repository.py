"""The repository of models, as commands are told of it."""

from __future__ import annotations

import contextlib
import getpass
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from gatewatch.models.artefact.files import MANIFEST
from gatewatch.models.artefact.repository import Repository, Version
from gatewatch.models.errors import GatewatchError

Models = Annotated[
    str | None, typer.Option("--models", help="the repository: a folder or an fsspec URL [GATEWATCH_MODELS]")
]
By = Annotated[str | None, typer.Option("--by", help="who does it, for the log; the user of this machine if not given")]
Note = Annotated[str, typer.Option("--note", help="why, for the log")]


def open_repository(url: str | None) -> Repository:
    """The repository of --models or GATEWATCH_MODELS. Raises GatewatchError where neither is given."""
    from gatewatch.models.detectors.canary import verify  # with onnxruntime, which --help does not need

    url = url or os.environ.get("GATEWATCH_MODELS")
    if not url:
        raise GatewatchError("which repository? Expected --models FOLDER, or GATEWATCH_MODELS in the environment")
    return Repository(url, verify)


def user() -> str:
    """Who runs the command, as the machine knows it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return f"uid {os.getuid()}"


@dataclass(frozen=True)
class IntoModel:
    """A model of the repository that a training adds a version to."""

    repository: Repository
    model: str
    by: str
    note: str

    def __post_init__(self) -> None:
        """What cannot be added is known before a long training. Raises ArtefactError."""
        self.repository.require_name(self.model)
        self.repository.revisions()

    @contextlib.contextmanager
    def folder(self, added: Callable[[str, Version], None]) -> Iterator[Path]:
        """A folder for the artefact; what is there in the end is added, and `added` hears of the model's new version.

        Of processes that train together only one writes an artefact.
        """
        with tempfile.TemporaryDirectory(prefix="gatewatch-") as folder:
            place = Path(folder) / "artefact"
            yield place
            if (place / MANIFEST).exists():
                added(self.model, self.repository.add(self.model, place, self.by, self.note))
