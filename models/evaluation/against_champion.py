"""Hold a version of a model against the one that it is to replace, and keep the report beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from gatewatch.models.artefact.files import Artefact, load_artefact, model_folder
from gatewatch.models.artefact.gate_report import GateReport, Material
from gatewatch.models.artefact.repository import Repository
from gatewatch.models.artefact.versions import Version
from gatewatch.models.errors import EvaluationError, UnknownModel
from gatewatch.models.evaluation.gate import Parts, asked_of, compare, detector_for, rules_of
from gatewatch.models.recordings.review import LeftOut, Reviewed
from gatewatch.models.scores import iso
from gatewatch.models.text import listed


@dataclass(frozen=True)
class Champion:
    """What a word of a model points to now.

    Attributes:
        version: None where it points to nothing: streams have the general model then.
    """

    version: Version | None
    artefact: Artefact

    @property
    def name(self) -> str:
        """For people."""
        return "the general model" if self.version is None else f"version {self.version.version}"


def champion_of(repository: Repository, name: str, alias: str) -> Champion:
    """What a model's alias points to; the general model where there is no such model or alias yet.

    Raises:
        ArtefactError: the repository cannot be read, or the artefact is damaged.
    """
    try:
        version = repository.log.model(name).named(alias)
    except UnknownModel:
        return Champion(None, load_artefact(model_folder("general")))
    return Champion(version, repository.artefacts.artefact(version))


@dataclass(frozen=True)
class Reviews:
    """Recordings to train on and to hold models against, and where they are from, for people."""

    each: Sequence[Reviewed]
    origin: str

    @property
    def left_out(self) -> LeftOut:
        """How much of them."""
        return LeftOut.of(self.each)

    @property
    def channels(self) -> tuple[str, ...]:
        """Those of the first recording. Raises EvaluationError where another one has others."""
        first = self.each[0].source
        for one in self.each:
            if set(one.source.channels) != set(first.channels):
                raise EvaluationError(
                    f"{one.source.stream} has the channels {listed(one.source.channels)}, {first.stream} has "
                    f"{listed(first.channels)}; recordings of one model have the same channels"
                )
        return first.channels


def hold_against(
    repository: Repository,
    name: str,
    version: Version,
    champion: Champion,
    alias: str,
    reviews: Reviews,
    parts: Parts,
    by: str,
    trained_on: int | None = None,
    on_readings: Callable[[int], None] = lambda _: None,
) -> tuple[int, GateReport]:
    """Score the newest readings with both models, and keep the report; returns its number among those on the version.

    Args:
        trained_on: how many of the readings before the newest ones the version was trained on, None for others.

    Raises:
        EvaluationError: there is no newest reading, or a model has other channels.
        ArtefactError: the repository cannot be read or written, or an artefact cannot be used.
    """
    if not parts.newest:
        raise EvaluationError("no reading to hold a version against; give newer recordings")
    artefact, channels = repository.artefacts.artefact(version), reviews.channels
    new = detector_for(artefact, channels, f"{name}@{version.version}")
    before = detector_for(champion.artefact, channels, champion.name)
    compared = compare(new, before, parts.newest, on_readings)
    held = [one.recording.rows(one.begins).times_us for one in parts.newest]
    report = GateReport(
        model=name,
        version=version.version,
        alias=alias,
        against=None if champion.version is None else champion.version.version,
        at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        by=by,
        asked=asked_of(artefact),
        material=Material(
            origin=reviews.origin,
            streams=len({one.source.stream for one in reviews.each}),
            readings=reviews.left_out.readings,
            left_out=reviews.left_out.as_json(),
            trained_on=trained_on,
            newest=sum(map(len, held)),
            since=iso(min(int(times.min()) for times in held)),
            until=iso(max(int(times.max()) for times in held)),
            usual=compared.usual,
            events=compared.events,
        ),
        new=compared.new,
        before=compared.before,
        rules=rules_of(compared, artefact),
    )
    return repository.reports.add(report), report
