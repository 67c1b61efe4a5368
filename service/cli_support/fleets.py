"""Many models trained by one command, in this process, in several, or on a cluster; what is there is not made again."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, TypeVar

import typer

from gatewatch.models.artefact.files import MANIFEST, Artefact, Manifest, load_artefact, require_place
from gatewatch.models.artefact.repository import Repository
from gatewatch.models.artefact.versions import MODEL_NAME, require_name
from gatewatch.models.errors import ArtefactError, GatewatchError, RepositoryError
from gatewatch.models.recordings.recording import Source
from gatewatch.service.cli_support.progress import items_progress
from gatewatch.service.cli_support.terminal import stopped, warn
from gatewatch.service.cli_support.train_answer import TrainAnswer
from gatewatch.service.cli_support.workers import Outcome, cores, here, in_processes, on_cluster

if TYPE_CHECKING:
    from gatewatch.models.training.config import TrainConfig
    from gatewatch.models.training.fleet import Made

NAME_GOES_HERE: Final = "{}"
"""In --into, where the name of each stream goes."""

Processes = Annotated[
    int | None,
    typer.Option("--processes", help="of this machine, each at one piece at a time; its cores if not given", min=1),
]
DaskAddress = Annotated[
    str | None, typer.Option("--dask", help="use the workers of this Dask scheduler, as tcp://10.0.0.1:8786, instead")
]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Workforce:
    """Who does the pieces of a work: processes of this machine, or a Dask cluster."""

    processes: int | None
    dask: str | None

    def __post_init__(self) -> None:
        """Raise GatewatchError where both are given."""
        if self.processes is not None and self.dask is not None:
            raise GatewatchError("expected at most one of --processes N, --dask ADDRESS")

    @property
    def is_given(self) -> bool:
        """Whether an option says so."""
        return self.processes is not None or self.dask is not None

    def does(
        self, work: Callable[[T], R], items: Iterable[T], count: int, packed: Callable[[T], T] = lambda item: item
    ) -> Iterator[Outcome[T, R]]:
        """Pieces of work, as they come to an end.

        Args:
            work: a function of a module.
            count: of the pieces, so that there are no more processes than that.
            packed: makes a piece ready for another process.
        """
        if self.dask is not None:
            return on_cluster(work, map(packed, items), self.dask)
        processes = min(self.processes or cores(), count)
        return here(work, items) if processes <= 1 else in_processes(work, map(packed, items), processes)


class Keeper(Protocol):
    """Where the models of a fleet go."""

    def made_of(self, name: str) -> str | None:
        """What the model that is there was made of, see models.training.fleet; None where there is none to keep."""

    def keep(self, name: str, made: Made, answer: TrainAnswer) -> None:
        """Write a model, and say so. Raises ArtefactError."""


@dataclass(frozen=True)
class InFolder:
    """Artefacts in folders called as the streams."""

    out: Path

    def require_places(self, names: Iterable[str]) -> None:
        """Raise ArtefactError where something else than an artefact is in the place of one."""
        if (self.out / MANIFEST).exists():
            raise GatewatchError(f"{self.out} is an artefact; --one-model-per stream needs a folder for several")
        for name in names:
            require_place(self.out / name)

    def made_of(self, name: str) -> str | None:
        """See Keeper."""
        try:
            return _made_of(load_artefact(self.out / name)) if (self.out / name).exists() else None
        except ArtefactError:
            return None

    def keep(self, name: str, made: Made, answer: TrainAnswer) -> None:
        """See Keeper."""
        made.save(self.out / name)
        answer.trained(name, made.manifest, self.out / name, str(self.out / name))


@dataclass(frozen=True)
class InRepository:
    """Models of the repository, called after the streams."""

    repository: Repository
    pattern: str
    by: str
    note: str
    known: dict[str, int] = field(default_factory=dict)

    def require_names(self, names: Iterable[str]) -> None:
        """Raise GatewatchError where two streams have one model, or a name is none of a model."""
        if self.pattern.count(NAME_GOES_HERE) != 1:
            raise GatewatchError(
                f"--into {self.pattern}: of several models, each is called after its stream; write {NAME_GOES_HERE} "
                f"where that name goes, as --into '{NAME_GOES_HERE}' or --into 'pump-{NAME_GOES_HERE}'"
            )
        models: dict[str, str] = {}
        for name in names:
            model = self.model(name)
            if not MODEL_NAME.fullmatch(model):
                raise GatewatchError(
                    f"{name}: its model would be called {model}, which is too long or begins with a sign"
                )
            require_name(model)
            if model in models:
                raise GatewatchError(f"{models[model]} and {name} would both be the model {model}")
            models[model] = name
        self.known.update(self.repository.log.revisions())

    def model(self, name: str) -> str:
        """The name of a stream's model: in small letters, with - for what a model's name cannot have."""
        return self.pattern.replace(NAME_GOES_HERE, re.sub(r"[^a-z0-9_-]", "-", name.lower()))

    def made_of(self, name: str) -> str | None:
        """See Keeper; of the newest version."""
        model = self.model(name)
        if model not in self.known:
            return None
        versions = self.repository.log.model(model, self.known[model]).versions
        try:
            return _made_of(self.repository.artefacts.artefact(versions[-1]))
        except RepositoryError:
            raise
        except ArtefactError:
            return None

    def keep(self, name: str, made: Made, answer: TrainAnswer) -> None:
        """See Keeper."""
        model = self.model(name)
        with tempfile.TemporaryDirectory(prefix="gatewatch-") as folder:
            made.save(Path(folder) / "artefact")
            version = self.repository.add(model, Path(folder) / "artefact", self.by, self.note)
        kept = {"model": model, "version": version.version, "digest": version.digest}
        answer.trained(name, made.manifest, None, f"{model}@{version.version}", **kept)


def _made_of(artefact: Artefact) -> str | None:
    from gatewatch.models.training.fleet import MADE_OF

    kept: Any = artefact.manifest.training.get(MADE_OF) if isinstance(artefact.manifest, Manifest) else None
    return kept if isinstance(kept, str) else None


def train_fleet(
    groups: Mapping[str, Sequence[Source]],
    config: TrainConfig,
    units: Mapping[str, str],
    checkpoint: Path | None,
    keeper: Keeper,
    workforce: Workforce,
    answer: TrainAnswer,
) -> dict[str, GatewatchError]:
    """Train a model for each group of recordings; one that cannot be trained stops no other. What failed, and why."""
    from gatewatch.models.training.fleet import Member, make

    failed: dict[str, GatewatchError] = {}
    there = trained = 0

    def missing() -> Iterator[Member]:
        nonlocal there
        for name, recordings in groups.items():
            own = {channel: unit for channel, unit in units.items() if channel in recordings[0].channels}
            member = Member(name, recordings, config, own, checkpoint and checkpoint / name)
            kept = keeper.made_of(name)
            if kept is not None and kept == member.made_of():
                there += 1
                progress.count()
            else:
                yield member

    with items_progress(len(groups), "models") as progress:
        try:
            for outcome in workforce.does(make, missing(), len(groups), Member.in_memory):
                name = outcome.item.name
                progress.count()
                if outcome.result is None:
                    failed[name] = outcome.error or GatewatchError("no result")
                    warn(f"{name}: {failed[name]}")
                    continue
                warn("\n".join([f"{name}:", *outcome.result.suitability.lines()]))
                keeper.keep(name, outcome.result, answer)
                trained += 1
        except KeyboardInterrupt:
            stopped(f"; {there + trained} of {len(groups)} models are there: run the same command again for the others")
    warn(f"{len(groups)} models: {trained} trained, {there} were there already, {len(failed)} could not be trained")
    return failed
