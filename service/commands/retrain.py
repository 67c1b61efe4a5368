"""gatewatch retrain."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatewatch.models.artefact.files import Artefact, Manifest
from gatewatch.models.artefact.repository import Repository
from gatewatch.models.artefact.versions import CHAMPION, Version, require_name
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.errors import NotBetter, RecordingError, UnknownModel
from gatewatch.models.evaluation.against_champion import Champion, Reviews, champion_of, hold_against
from gatewatch.models.evaluation.gate import Parts, divide
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.recording import Source
from gatewatch.service.cli_support.progress import scan_progress
from gatewatch.service.cli_support.reading import reads_recordings
from gatewatch.service.cli_support.repository import By, Models, Note, open_repository, user
from gatewatch.service.cli_support.reviews import FromService, Given, LabelColumn, Labels, Streams
from gatewatch.service.cli_support.terminal import TABLES, say_left_out, tell, warn
from gatewatch.service.cli_support.trainings import extra_needed, train_config, train_detector

if TYPE_CHECKING:
    from gatewatch.models.training.config import TrainConfig

REMEDY = "label these incidents false_alarm, or take all that was judged with --keep-judged"


@reads_recordings
def retrain(
    model: Annotated[str, typer.Argument(help="the model, as pumps; its next version is made")],
    files: Annotated[list[Path] | None, typer.Argument(help=TABLES)] = None,
    from_service: FromService = None,
    streams: Streams = None,
    labels: Labels = None,
    label_column: LabelColumn = None,
    keep_judged: Annotated[
        bool, typer.Option("--keep-judged", help="leave out only what was labelled, not what was judged anomalous")
    ] = False,
    newest: Annotated[
        float,
        typer.Option(help="share of each stream's readings, its end, to hold both versions against", min=0.01, max=0.9),
    ] = 0.2,
    alias: Annotated[str, typer.Option("--alias", help="the word that is moved to a better version")] = CHAMPION,
    architecture: Annotated[str | None, typer.Option(help="as of train; the champion's if not given")] = None,
    layers: Annotated[int | None, typer.Option(help="as of train; the champion's if not given")] = None,
    hidden: Annotated[int | None, typer.Option(help="as of train; the champion's if not given")] = None,
    epochs: Annotated[int | None, typer.Option(help="as of train; the champion's if not given")] = None,
    time_limit_s: Annotated[float | None, typer.Option(help="end training after so many seconds")] = None,
    false_alarm_rate: Annotated[
        float | None, typer.Option(help="share of normal readings; the champion's if not given")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="as of train; the champion's if not given")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="folder to save to while training, and to resume from")
    ] = None,
    models: Models = None,
    by: By = None,
    note: Note = "",
    *,
    how: ReadOptions,
) -> None:
    """Train a model anew on recordings or a service's history, hold it against the champion, promote it if better.

    What was labelled as a fault or as unusual, or judged anomalous, is left out. The newest part is never trained on.
    The report lies in the repository beside the version. Exit status 0 whether it was promoted or not.
    """
    repository = open_repository(models)
    require_name(model)
    who = by or user()
    given = Given(files or [], from_service, streams or [], labels, label_column, how)
    with extra_needed("retrain"):
        import gatewatch.models.training.trained.train  # noqa: F401
    champion = champion_of(repository, model, alias)
    asked = {
        "architecture": architecture, "layers": layers, "hidden": hidden, "epochs": epochs,
        "time_limit_s": time_limit_s, "false_alarm_rate": false_alarm_rate, "seed": seed,
    }  # fmt: skip
    config = _config(champion.artefact, asked)
    reviews = _gathered(given, repository, model, champion, keep_judged=keep_judged)
    parts = divide(reviews.each, newest)
    recordings = _to_train_on(parts)
    version = _added(repository, model, recordings, config, _units(champion.artefact), checkpoint, who, note)
    if champion.version is not None and version.version == champion.version.version:
        tell(
            f"{model}@{version.version} is {model}@{alias} already: the same readings and settings gave the same model"
        )
        return
    # A version that is to be watched beside the champion on live streams first would go into its shadow here: it is in
    # the repository, and no stream has it.
    with scan_progress() as progress:
        progress.expect(2 * sum(len(one.recording) for one in parts.newest))
        number, report = hold_against(
            repository, model, version, champion, alias, reviews, parts, who, sum(map(len, recordings)), progress.count
        )
    tell(report.text())
    try:
        change = repository.promote(model, str(version.version), who, alias, note, if_better=True)
    except NotBetter:
        tell(f"{model}@{alias} stays {champion.name} (report {number} on {model}@{version.version})")
        return
    tell(f"{model}@{alias} is version {change.version} now (report {number} on {model}@{version.version})")


def _gathered(given: Given, repository: Repository, model: str, champion: Champion, *, keep_judged: bool) -> Reviews:
    """The readings to go by: of a service, those of the streams that the model scored last, where none is named."""
    try:
        digests = {version.digest for version in repository.log.model(model).versions}
    except UnknownModel:
        digests = set()
    judge = None
    if champion.version is not None and given.files and isinstance(champion.artefact.manifest, Manifest):
        judge = TrainedDetector(champion.artefact)
    reviews = given.read(digests, judge, keep_judged=keep_judged)
    say_left_out(reviews.left_out, REMEDY)
    return reviews


def _config(before: Artefact, asked: Mapping[str, Any]) -> TrainConfig:
    """The champion's settings, but for those that are asked for; the defaults where it is no trained model."""
    kept = before.manifest.architecture_settings if isinstance(before.manifest, Manifest) else {}
    given = {name: value for name, value in asked.items() if value is not None}
    return train_config(**{**kept, "time_limit_s": None, **given})


def _units(before: Artefact) -> dict[str, str]:
    manifest = before.manifest
    return {one.name: one.unit for one in manifest.channels if one.unit} if isinstance(manifest, Manifest) else {}


def _to_train_on(parts: Parts) -> list[Source]:
    """What comes before the newest readings, without what is left out."""
    recordings = [stretch for one, rows in parts.trained for stretch in one.stretches(rows)]
    if not recordings:
        raise RecordingError(f"nothing is left to train on: {REMEDY}")
    return recordings


def _added(
    repository: Repository,
    model: str,
    recordings: Sequence[Source],
    config: TrainConfig,
    units: Mapping[str, str],
    checkpoint: Path | None,
    by: str,
    note: str,
) -> Version:
    """Train the next version of the model, and add it."""
    known = {channel: unit for channel, unit in units.items() if channel in recordings[0].channels}
    trained = train_detector(recordings, config, known, checkpoint)
    if too_short := trained.manifest.training["too_short_and_left_out"]:
        warn(f"too short to train on: {len(too_short)} stretches of readings between what was left out")
    with tempfile.TemporaryDirectory(prefix="gatewatch-") as folder:
        trained.save(Path(folder) / "artefact")
        return repository.add(model, Path(folder) / "artefact", by, note)
