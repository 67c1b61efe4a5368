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
from gatewatch.models.artefact.repository import Repository
from gatewatch.models.artefact.versions import Version, require_name
from gatewatch.models.errors import GatewatchError
from gatewatch.service.cli_support.settings import settings_of_environment
from gatewatch.service.settings import repository_in

Models = Annotated[
    str | None, typer.Option("--models", help="the repository: a folder or an fsspec URL [GATEWATCH_MODELS]")
]
By = Annotated[str | None, typer.Option("--by", help="who does it, for the log; the user of this machine if not given")]
Note = Annotated[str, typer.Option("--note", help="why, for the log")]


def open_repository(url: str | None) -> Repository:
    """The repository of --models or GATEWATCH_MODELS, or else of a service that keeps its data here.

    Raises:
        GatewatchError: there is none of these.
    """
    from gatewatch.models.detectors.canary import verify  # with onnxruntime, which --help does not need

    url = url or os.environ.get("GATEWATCH_MODELS") or _of_service_here()
    if not url:
        raise GatewatchError(
            "which repository? Expected --models FOLDER, GATEWATCH_MODELS in the environment, or a service with a "
            "private Redis whose data is in GATEWATCH_DATA_DIR"
        )
    return Repository(url, verify)


def _of_service_here() -> str | None:
    """The repository that `gatewatch serve` with these variables has; None where it was never started here."""
    settings = settings_of_environment()
    if settings.redis_url is not None or not settings.data_dir.is_dir():
        return None
    return str(repository_in(settings.data_dir))


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
        require_name(self.model)
        self.repository.log.revisions()

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
