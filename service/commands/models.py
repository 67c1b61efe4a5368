"""gatewatch models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gatewatch.models.artefact.files import Artefact, GeneralManifest
from gatewatch.models.artefact.gate_report import GateReport
from gatewatch.models.artefact.repository import Repository, channels_of
from gatewatch.models.artefact.versions import CHAMPION, Change, Model, Reference, Version
from gatewatch.models.errors import ArtefactError, GatewatchError, NotBetter
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.text import listed
from gatewatch.service.cli_support.progress import scan_progress
from gatewatch.service.cli_support.reading import reads_recordings
from gatewatch.service.cli_support.repository import By, Models, Note, open_repository, user
from gatewatch.service.cli_support.reviews import FromService, Given, LabelColumn, Labels, Streams
from gatewatch.service.cli_support.terminal import tell, tell_columns, warn, warn_in_one_line

app = typer.Typer(no_args_is_help=True, help="The repository of models: versions, and words that point to them.")

Url = Annotated[str, typer.Option("--url", help="the service")]
Through = Annotated[
    str | None, typer.Option("--url", help="have this service do it, which verifies the version on its own machine")
]
Pin = Annotated[bool, typer.Option("--pin", help="PATTERN is the name of one stream, which goes before all patterns")]
SERVICE = "http://127.0.0.1:8000"

NOT_BETTER = 3
"""Exit status of promote --if-better where it decided not to; an error has 2."""

Alias = Annotated[str, typer.Option("--alias", help="the word that is moved")]


@app.command("list")
def list_models(models: Models = None) -> None:
    """Every model, its versions, and which of them its words point to."""
    last = [(change, change.after) for change in open_repository(models).log.last_changes()]
    rows = [
        (model.model, str(len(model.versions)), _aliases(model), f"{change.at} {change.by}: {_what(change)}")
        for change, model in last
    ]
    tell_columns(("model", "versions", "points to", "last change"), rows)


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="a model, as pumps; or one version of it, as pumps@champion or pumps@3")],
    models: Models = None,
) -> None:
    """A model's versions and what was done to it; or what one version is."""
    repository, reference = open_repository(models), Reference.of(model)
    if "@" in model:
        version = repository.find(reference)
        for line in _described(version, repository.artefacts.artefact(version)):
            tell(line)
        for number in repository.reports.numbers(reference.model, version.version):
            report = repository.reports.report(reference.model, version.version, number)
            tell(f"\nreport {number}: {report.text()}".rstrip())
        return
    found = repository.log.model(reference.model)
    tell(f"{found.model}: {_aliases(found) or 'no word points to any version'} (revision {found.revision})")
    versions = [(str(v.version), v.digest, v.added_at, v.added_by, v.note) for v in reversed(found.versions)]
    tell_columns(("version", "digest", "added", "by", "note"), versions)
    done = [(change.at, change.by, _what(change), change.note) for change in repository.log.history(found.model)]
    tell_columns(("when", "who", "what", "note"), done)
    reports = [
        repository.reports.report(found.model, version.version, number)
        for version in reversed(found.versions)
        for number in reversed(repository.reports.numbers(found.model, version.version))
    ]
    if reports:
        tell_columns(("version", "held against", "when", "who", "found"), [_report_row(one) for one in reports])


@app.command()
def add(
    model: Annotated[str, typer.Argument(help="the model: small letters, digits, - and _")],
    folder: Annotated[Path, typer.Argument(help="an artefact, as gatewatch train writes it")],
    models: Models = None,
    by: By = None,
    note: Note = "",
) -> None:
    """Add an artefact as the next version of a model. No stream is scored by it until it is promoted."""
    version = open_repository(models).add(model, folder, by or user(), note)
    tell(f"{model}@{version.version} is {version.digest}, added {version.added_at} by {version.added_by}")


@app.command()
@reads_recordings
def promote(
    version: Annotated[str, typer.Argument(help="what is promoted, as pumps@3 or pumps@challenger")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="with --if-better: the newest recordings, or folders of them")
    ] = None,
    if_better: Annotated[
        bool,
        typer.Option(
            "--if-better",
            help="only if it is better than the version before on recordings or a service's history; without any, if "
            "its last report says so. Exit status 3 if not",
        ),
    ] = False,
    from_service: FromService = None,
    streams: Streams = None,
    labels: Labels = None,
    label_column: LabelColumn = None,
    alias: Alias = CHAMPION,
    other_channels: Annotated[
        bool, typer.Option("--other-channels", help="its channels may differ from those of the version before")
    ] = False,
    models: Models = None,
    url: Through = None,
    by: By = None,
    note: Note = "",
    *,
    how: ReadOptions,
) -> None:
    """Verify a version, and point a word to it. Streams that follow the word move over with their next readings."""
    if "@" not in version:
        raise GatewatchError(f"which version of {version}? Expected one as {version}@3 or {version}@challenger")
    reference, readings = Reference.of(version), bool(files or from_service or streams or labels or label_column)
    if readings and (url is not None or not if_better):
        raise GatewatchError("recordings and a service's history are of --if-better, without --url")
    try:
        if url is not None:
            word: int | str = int(reference.word) if reference.word.isdecimal() else reference.word
            sent = {"version": word, "alias": alias, "note": note, "other_channels": other_channels}
            _have_moved(url, reference.model, "promote", {**sent, "if_better": if_better}, models, by)
            return
        repository = open_repository(models)
        if readings:
            given = Given(files or [], from_service, streams or [], labels, label_column, how)
            _hold_against(repository, reference, alias, given, by or user())
        change = repository.promote(
            reference.model, reference.word, by or user(), alias, note, None, other_channels, if_better
        )
    except NotBetter as error:
        warn_in_one_line(f"not promoted: {error}")
        raise typer.Exit(NOT_BETTER) from error
    _tell_moved(change)


def _hold_against(repository: Repository, reference: Reference, alias: str, given: Given, by: str) -> None:
    """Leave a report on how a version stands against what a word points to, on all readings that are given."""
    from gatewatch.models.evaluation.against_champion import champion_of, hold_against
    from gatewatch.models.evaluation.gate import divide

    version, champion = repository.find(reference), champion_of(repository, reference.model, alias)
    reviews = given.read([] if champion.version is None else [champion.version.digest])
    warn(reviews.left_out.line())
    parts = divide(reviews.each, 1.0)
    with scan_progress() as progress:
        progress.expect(2 * sum(len(one.recording) for one in parts.newest))
        number, report = hold_against(
            repository, reference.model, version, champion, alias, reviews, parts, by, on_readings=progress.count
        )
    tell(f"report {number}: {report.text()}")


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(help="the model, as pumps")],
    alias: Alias = CHAMPION,
    models: Models = None,
    url: Through = None,
    by: By = None,
    note: Note = "",
) -> None:
    """Point a word to the version that it pointed to before, verified anew; again: to the one before that."""
    if url is not None:
        _have_moved(url, model, "rollback", {"alias": alias, "note": note}, models, by)
        return
    _tell_moved(open_repository(models).rollback(model, by or user(), alias, note))


@app.command()
def verify(
    versions: Annotated[
        list[str] | None, typer.Argument(help="as pumps@3; every version that a word points to if none is named")
    ] = None,
    models: Models = None,
) -> None:
    """Check the hashes of versions, and score their canaries: readings whose scores lie in the artefact.

    Exit status 1 if one cannot be served.
    """
    repository = open_repository(models)
    references = [Reference.of(text) for text in versions or []] or [
        Reference(change.after.model, alias)
        for change in repository.log.last_changes()
        for alias in sorted(change.after.aliases)
    ]
    if not references:
        raise GatewatchError("no word points to a version; name those to be verified, as pumps@3")
    failed = 0
    for reference in references:
        try:
            artefact = repository.artefacts.verified(repository.find(reference))
            told = "scores its canary as it did" if artefact.canary else "has no canary; its files are whole"
            tell(f"{reference}: {told}")
        except ArtefactError as error:
            failed += 1
            warn_in_one_line(f"{reference}: {error}")
    if failed:
        raise typer.Exit(1)


@app.command()
def rules(url: Url = SERVICE) -> None:
    """Which model each stream has: pins, and patterns in order."""
    from gatewatch.service.client.models import RULES, read_document

    _tell_rules(read_document(url, RULES[0]))


@app.command()
def assign(
    pattern: Annotated[str, typer.Argument(help="which streams: * is anything, ? one character, [ab] one of these")],
    model: Annotated[
        str, typer.Argument(help="pumps, pumps@champion, pumps@3, or default: the one of GATEWATCH_MODEL")
    ],
    first: Annotated[bool, typer.Option("--first", help="before all other patterns; else behind them")] = False,
    pin: Pin = False,
    url: Url = SERVICE,
) -> None:
    """Have a running service score streams with a model. A pattern that is there already stays in its place."""
    from gatewatch.service.client.models import RULES, change_document

    def assigned(known: dict[str, Any]) -> None:
        rule = {"pattern": pattern, "model": model}
        at = next((at for at, one in enumerate(known["rules"]) if one["pattern"] == pattern), None)
        if pin:
            known["pins"][pattern] = model
        elif at is not None and not first:
            known["rules"][at] = rule
        else:
            others = [one for one in known["rules"] if one["pattern"] != pattern]
            known["rules"] = [rule, *others] if first else [*others, rule]

    _tell_rules(change_document(url, RULES, assigned))


@app.command()
def unassign(
    pattern: Annotated[str, typer.Argument(help="as it was assigned")], pin: Pin = False, url: Url = SERVICE
) -> None:
    """Take a rule or a pin away; its streams have the model of the next rule that fits them."""
    from gatewatch.service.client.models import RULES, change_document

    def without(known: dict[str, Any]) -> None:
        if pattern not in (known["pins"] if pin else [one["pattern"] for one in known["rules"]]):
            raise GatewatchError(f"there is no {'pin of' if pin else 'rule for'} {pattern}")
        if pin:
            del known["pins"][pattern]
        else:
            known["rules"] = [one for one in known["rules"] if one["pattern"] != pattern]

    _tell_rules(change_document(url, RULES, without))


def _report_row(report: GateReport) -> tuple[str, ...]:
    return str(report.version), report.other, report.at, report.by, report.line()


@app.command()
def shadow(
    version: Annotated[
        str,
        typer.Argument(help="which version scores beside the model, as pumps@3; the model alone: look at its shadow"),
    ],
    share: Annotated[float | None, typer.Option("--share", help="of the model's streams, above 0 and up to 1")] = None,
    end: Annotated[bool, typer.Option("--end", help="have no version score beside the model any more")] = False,
    url: Url = SERVICE,
) -> None:
    """Have a version score a share of a model's streams beside it. What it says is only counted."""
    from gatewatch.service.client.models import change_shadow

    reference = Reference.of(version)
    if end and ("@" in version or share is not None):
        raise GatewatchError(f"--end goes with the model alone: gatewatch models shadow {reference.model} --end")
    if share is not None and "@" not in version:
        raise GatewatchError(f"which version of {version}? Expected one as {version}@3 or {version}@challenger")
    sent = None
    if "@" in version:
        word: int | str = int(reference.word) if reference.word.isdecimal() else reference.word
        sent = {"version": word} | ({} if share is None else {"share": share})
    _tell_shadow(change_shadow(url, reference.model, sent, end), end)


def _tell_shadow(found: Mapping[str, Any], ended: bool) -> None:
    what = "no longer scores" if ended else "scores"
    tell(
        f"{found['model']}@{found['version']} {what} {found['share']:.3g} of the streams of {found['model']} beside it"
    )
    tell(f"readings that both judged: {found['readings']}; dropped: {found['dropped']}")
    rows = []
    for name in ("champion", "shadow"):
        rate, loss = found["alerts_per_week"][name], found["loss"][name]
        told = (str(found["alerts"][name]), *("" if one is None else f"{one:.3g}" for one in (rate, loss)))
        rows.append((name, str(found["anomalous"][f"{name}_only"]), *told))
    tell_columns(("", "alone anomalous", "alerts", "a stream and week", "loss of the forecast"), rows)


def _have_moved(url: str, model: str, what: str, sent: dict[str, Any], models: str | None, by: str | None) -> None:
    """Have a service promote or roll back; it knows its repository, and who asks."""
    from gatewatch.service.client.models import move_alias

    if models is not None or by is not None:
        raise GatewatchError("--models and --by are of the command itself; a service (--url) knows both")
    _tell_moved_to(move_alias(url, model, what, sent))


def _tell_rules(known: Mapping[str, Any]) -> None:
    versions = {name: f"version {chosen['version']}" for name, chosen in known["versions"].items()}
    rows = [(f"{stream} (pin)", model, versions.get(model, "")) for stream, model in sorted(known["pins"].items())]
    rows += [(rule["pattern"], rule["model"], versions.get(rule["model"], "")) for rule in known["rules"]]
    tell_columns(("streams", "model", "now"), [*rows, ("*", "default", "")])
    for warning in known.get("warnings", ()):
        warn_in_one_line(warning)


def _aliases(model: Model) -> str:
    return ", ".join(f"{alias} {target.version}" for alias, target in sorted(model.aliases.items()))


def _what(change: Change) -> str:
    if change.action == "add":
        return f"added version {change.version}"
    done = "rolled back" if change.action == "rollback" else "promoted"
    was = f" from {change.was}" if change.was is not None else ""
    return f"{done} {change.alias}{was} to {change.version}"


def _tell_moved(change: Change) -> None:
    _tell_moved_to({"model": change.after.model, "revision": change.after.revision, **change.model_dump()})


def _tell_moved_to(change: Mapping[str, Any]) -> None:
    was = f", before {change['was']}" if change["was"] is not None else ""
    tell(f"{change['model']}@{change['alias']} is version {change['version']}{was} (revision {change['revision']})")


def _described(version: Version, artefact: Artefact) -> list[str]:
    manifest = artefact.manifest
    if isinstance(manifest, GeneralManifest):
        what = "a general model, for any channels"
        rate = f"{manifest.calibration.alerts_per_week:g} alerts a stream and week"
    else:
        what = f"channels: {listed(channels_of(artefact))}"
        rate = (
            f"false-alarm rate {manifest.calibration.false_alarm_rate:g}, {manifest.calibration.confidence} confidence"
        )
    return [
        f"version {version.version}, {version.digest}, added {version.added_at} by {version.added_by}"
        + (f": {version.note}" if version.note else ""),
        f"{manifest.architecture}, {what}",
        rate,
        f"a lost state comes back from {manifest.calibration.rebuild_readings} readings",
        "with a canary" if artefact.canary else "without a canary",
    ]
