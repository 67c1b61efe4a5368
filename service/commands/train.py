"""gatewatch train."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gatewatch.models.artefact.files import MANIFEST, model_folder, require_place
from gatewatch.models.errors import GatewatchError, RecordingError
from gatewatch.models.recordings.labels import without_labels
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.recording import Source
from gatewatch.service.cli_support.fleets import (
    DaskAddress,
    InFolder,
    InRepository,
    Keeper,
    Processes,
    Workforce,
    train_fleet,
)
from gatewatch.service.cli_support.origins import Origin
from gatewatch.service.cli_support.reading import reads_recordings
from gatewatch.service.cli_support.repository import By, IntoModel, Models, Note, open_repository, user
from gatewatch.service.cli_support.terminal import TABLES, AsJson, sensors, stopped, training_progress, warn
from gatewatch.service.cli_support.train_answer import TrainAnswer
from gatewatch.service.cli_support.trainings import extra_needed, require_change, say, train_config, train_detector
from gatewatch.service.cli_support.tuning import search

if TYPE_CHECKING:
    from gatewatch.models.training.config import TrainConfig
    from gatewatch.models.training.processes import Processes as Joined
    from gatewatch.models.training.suitability import Suitability

Groups = Mapping[str, Sequence[Source]]


UNUSED_BY_FROM = (
    "architecture", "layers", "hidden", "memory", "chrono", "beta", "dropout", "time_limit_s", "false_alarm_rate",
    "learning_rate", "checkpoint", "checkpoint_every_s", "tune", "study", "report", "unit", "one_model_per",
)  # fmt: skip
"""Options that say how a network of one's own is made."""


@reads_recordings
def train(
    context: typer.Context,
    files: Annotated[list[Path] | None, typer.Argument(help=TABLES)] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the artefact to write")] = None,
    into: Annotated[
        str | None,
        typer.Option(
            help="model of the repository to add the artefact to, as its next version; of several models, {} stands "
            "for the name of each"
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="only say what is odd about the recordings")] = False,
    architecture: Annotated[str, typer.Option(help="lstm, gru, ...; an unknown one lists them all")] = "lstm",
    layers: Annotated[int, typer.Option(help="layers on top of each other")] = 2,
    hidden: Annotated[int, typer.Option(help="units a layer")] = 64,
    memory: Annotated[int, typer.Option(help="readings that attention, window and transformer look back")] = 64,
    chrono: Annotated[
        int | None, typer.Option(help="readings that gates keep what they hold at the start, at most")
    ] = None,
    beta: Annotated[
        float, typer.Option(help="0.5: errors teach alike where forecasts are wide and where they are narrow")
    ] = 0.0,
    dropout: Annotated[float, typer.Option(help="share of units dropped between layers in training")] = 0.1,
    epochs: Annotated[int, typer.Option(help="most passes over the recordings")] = 60,
    time_limit_s: Annotated[float | None, typer.Option(help="end training after so many seconds")] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(help="share of normal readings that may be judged anomalous")
    ] = 0.001,
    held_out: Annotated[float, typer.Option(help="share of each recording, its end, kept for calibration")] = 0.25,
    seed: Annotated[int, typer.Option(help="the same seed and data give the same artefact")] = 0,
    learning_rate: Annotated[
        float, typer.Option(help="of the first epoch; lower it if the loss is not a number")
    ] = 4e-3,
    unit: Annotated[list[str] | None, typer.Option(help="channel=unit, for people; may be repeated")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="folder to save to while training, and to resume from")
    ] = None,
    tune: Annotated[
        int | None, typer.Option(help="search for better settings first, with so many trainings in all", min=1)
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(help="with --tune: folder that keeps the search, to go on with; <out>-study if not given"),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="HTML to write: losses, forecasts, residuals, thresholds")] = None,
    checkpoint_every_s: Annotated[float, typer.Option(help="a checkpoint so often, and after each epoch")] = 60,
    one_model_per: Annotated[
        str, typer.Option(help="all, or a model for each stream, folder of files or channel, in OUT/<its name>")
    ] = "all",
    start_from: Annotated[
        str | None, typer.Option("--from", help="train on from here, channel by channel: general, or an artefact of it")
    ] = None,
    from_service: Annotated[str | None, typer.Option(help="URL of a running service, whose history is read")] = None,
    stream: Annotated[
        list[str] | None, typer.Option(help="with --from-service: a stream; all if none is named")
    ] = None,
    from_prometheus: Annotated[str | None, typer.Option(help="URL of a Prometheus server")] = None,
    query: Annotated[list[str] | None, typer.Option(help="with --from-prometheus: PromQL; may be repeated")] = None,
    start: Annotated[str | None, typer.Option(help="with --from-prometheus: RFC 3339 or Unix seconds")] = None,
    end: Annotated[str | None, typer.Option(help="with --from-prometheus: RFC 3339 or Unix seconds")] = None,
    step: Annotated[float, typer.Option(help="with --from-prometheus: seconds between readings")] = 60,
    stream_label: Annotated[
        str, typer.Option(help="with --from-prometheus: series with the same value of it are one stream")
    ] = "instance",
    processes: Processes = None,
    dask: DaskAddress = None,
    models: Models = None,
    by: By = None,
    note: Note = "",
    as_json: AsJson = False,
    *,
    how: ReadOptions,
) -> None:
    """Train a detector on recordings of normal operation and write it as an artefact. Needs the extra `train`."""
    if (out is not None) + (into is not None) + check != 1:
        raise GatewatchError(
            "expected one of: --out FOLDER or --into MODEL, to train, or --check, to look at the recordings only"
        )
    if into is None and (models or by or note):
        raise GatewatchError("--models, --by and --note are of --into; expected --into MODEL beside them")
    workforce = Workforce(processes, dask)
    if workforce.is_given and (one_model_per == "all" or tune is not None):
        raise GatewatchError("--processes and --dask are of --one-model-per, without --tune")
    if dask is not None and checkpoint is not None:
        raise GatewatchError("--checkpoint is a folder of this machine; --dask trains on others")
    if tune is not None and into is not None and one_model_per != "all":
        raise GatewatchError("--tune with --into is of one model; name --out, and add what it makes")
    if report is not None and one_model_per != "all":
        raise GatewatchError(f"--report is of one model; found --one-model-per {one_model_per}")
    if study is not None and tune is None:
        raise GatewatchError("--study is the folder of a search; expected --tune N beside it")
    unused = [f"--{name.replace('_', '-')}" for name in UNUSED_BY_FROM if _is_given(context, name)]
    if start_from is not None and unused:
        raise GatewatchError(
            f"--from trains one general model on, as it is and in one go; it does not go with {', '.join(unused)}"
        )
    config = train_config(
        architecture=architecture, layers=layers, hidden=hidden, memory=memory, chrono=chrono, beta=beta,
        dropout=dropout, epochs=epochs, time_limit_s=time_limit_s, false_alarm_rate=false_alarm_rate,
        held_out=held_out, seed=seed, learning_rate=learning_rate, checkpoint_every_s=checkpoint_every_s,
    )  # fmt: skip
    units = dict(_unit(text) for text in unit or [])
    origin = Origin(
        files or [], from_service, stream or [], from_prometheus, query or [], start, end, step, stream_label,
        how,
    )  # fmt: skip
    with extra_needed("train"):  # before a long look through the recordings
        import gatewatch.models.training.trained.train  # noqa: F401
    repository = None if into is None else open_repository(models)
    into_model = None
    if repository is not None and into is not None and one_model_per == "all":
        into_model = IntoModel(repository, into, by or user(), note)
    study = None if tune is None else study or Path(f"{into or out}-study")
    answer = TrainAnswer(as_json)
    with _kept_on_ctrl_c(checkpoint, study):
        groups = origin.gather(one_model_per)
        if check:
            _look_through(groups, config, answer)
            answer.end({})
            return
        if one_model_per != "all" and tune is None and not _shared_by_torchrun():
            keeper: Keeper
            if repository is not None and into is not None:
                keeper = InRepository(repository, into, by or user(), note)
                keeper.require_names(groups)
            else:
                keeper = InFolder(out or Path())
                keeper.require_places(groups)
            _require_channels(groups, units)
            failed = train_fleet(groups, config, units, checkpoint, keeper, workforce, answer)
            answer.end(failed)
            _require_all(groups, failed)
            return
        with into_model.folder(answer.added) if into_model else contextlib.nullcontext(out or Path()) as folder:
            if one_model_per != "all" and (folder / MANIFEST).exists():
                raise GatewatchError(
                    f"{folder} is an artefact; --one-model-per {one_model_per} needs a folder for several"
                )
            for name in groups:
                require_place(folder / name)
            if start_from is not None:
                _train_general_on(groups[""], config, start_from, folder, into or str(folder), answer)
                failed = {}
            else:
                study = study or Path(f"{into or folder}-study")
                given = _Training(config, folder, into, units, checkpoint, tune, study, report)
                failed = _train_each(groups, given, answer)
        answer.end(failed)
        _require_all(groups, failed)


@contextlib.contextmanager
def _kept_on_ctrl_c(checkpoint: Path | None, study: Path | None) -> Iterator[None]:
    """After Ctrl-C, say what is there to go on from."""
    try:
        yield
    except KeyboardInterrupt:
        kept = [str(folder) for folder in (checkpoint, study) if folder is not None and folder.exists()]
        if kept:
            stopped(f"; what is in {' and '.join(kept)} is kept: run the same command again, and it goes on from there")
        stopped("; nothing is kept. With --checkpoint FOLDER the same command could go on")


def _look_through(groups: Groups, config: TrainConfig, answer: TrainAnswer) -> None:
    from gatewatch.models.training.trained.train import prepare

    for name, recordings in groups.items():
        answer.checked(name, prepare(recordings, config).suitability)


def _train_general_on(
    recordings: Sequence[Source], config: TrainConfig, folder: str, out: Path, title: str, answer: TrainAnswer
) -> None:
    from gatewatch.models.training.general.finetune import finetune
    from gatewatch.models.training.processes import joined_processes

    with joined_processes() as processes:
        _require_alone(processes, "--from")
        recordings = sensors(recordings)
        with training_progress(config.epochs) as show:
            tuned = finetune(recordings, config, model_folder(folder), show.on_pass)
    tuned.save(out)
    answer.tuned(tuned, out, title)


@dataclass(frozen=True)
class _Training:
    """How each model is trained, and the folders of them all; see the options."""

    config: TrainConfig
    out: Path
    into: str | None
    units: dict[str, str]
    checkpoint: Path | None
    tune: int | None
    study: Path
    report: Path | None

    def __post_init__(self) -> None:
        """Refuse what could not be written at the end of a long training."""
        for option, folder in (("--checkpoint", self.checkpoint), ("--study", self.study)):
            if folder is not None and folder.resolve().is_relative_to(self.out.resolve()):
                raise GatewatchError(f"{option} {folder} lies in --out {self.out}, which holds the artefact alone")
        if self.report is not None:
            if self.report.suffix != ".html" or self.report.is_dir():  # never over a recording
                raise GatewatchError(f"--report {self.report}: expected a file to write, its name ending in .html")
            with extra_needed("--report"):
                import gatewatch.models.training.report  # noqa: F401 - needed at the end

    def run(self, name: str, recordings: Sequence[Source], processes: Joined, answer: TrainAnswer) -> None:
        """Train the model of one group of recordings, and write it."""
        from gatewatch.models.training.trained.train import prepare

        if name and processes.leads:
            warn(f"{name}:")
        config = self.config
        on_examined: Callable[[Suitability], None] = partial(_look, name, recordings, processes)
        if self.tune is not None:  # said before the search, and not again after it
            on_examined(prepare(recordings, config).suitability)
            config, on_examined = search(recordings, config, self.tune, self.study / name), lambda _: None
        checkpoint = self.checkpoint and self.checkpoint / name
        units = {channel: unit for channel, unit in self.units.items() if channel in recordings[0].channels}
        trained = train_detector(recordings, config, units, checkpoint, processes, on_examined)
        if not processes.leads:
            return
        trained.save(self.out / name)
        answer.trained(name, trained.manifest, self.out / name, self.into or str(self.out / name))
        if self.report is not None:
            from gatewatch.models.training.report import write_report

            write_report(trained, recordings, self.report)


def _shared_by_torchrun() -> bool:
    """Whether processes share each training."""
    from torch import distributed

    return distributed.is_torchelastic_launched()


def _require_channels(groups: Groups, units: Mapping[str, str]) -> None:
    """Refuse a unit of what is no channel of any model."""
    all_of_them = [without_labels(one) for recordings in groups.values() for one in recordings]
    channels = {channel: None for one in all_of_them for channel in one.channels}
    unknown = [channel for channel in units if channel not in channels]
    if unknown:
        raise RecordingError(f"a unit is given for {', '.join(unknown)}; the recordings have {', '.join(channels)}")


def _require_alone(processes: Joined, option: str) -> None:
    if processes.size > 1:
        raise GatewatchError(f"{option} is for one process; found {processes.size}")


def _look(name: str, recordings: Sequence[Source], processes: Joined, found: Suitability) -> None:
    """Say what is odd about the recordings of a model; refuse them if nothing changes in those of the only one."""
    if processes.leads:
        say(found)
    if not name:
        require_change(recordings, found)


def _train_each(groups: Groups, training: _Training, answer: TrainAnswer) -> dict[str, GatewatchError]:
    """One model after the other; of several, one that cannot be trained stops no other. What failed, and why."""
    from gatewatch.models.training.processes import joined_processes

    failed: dict[str, GatewatchError] = {}
    with joined_processes() as processes:
        _require_channels(groups, training.units)
        if training.tune is not None:
            _require_alone(processes, "--tune")
        for name, recordings in groups.items():
            try:
                training.run(name, recordings, processes, answer)
            except GatewatchError as error:
                if len(groups) == 1:
                    raise
                failed[name] = error
    return failed


def _require_all(groups: Groups, failed: Mapping[str, GatewatchError]) -> None:
    if failed:
        reasons = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise GatewatchError(f"{len(failed)} of {len(groups)} models could not be trained: {reasons}")


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands in the command, be it with its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _unit(text: str) -> tuple[str, str]:
    channel, equals, unit = text.partition("=")
    if not equals:
        raise GatewatchError(f"--unit {text!r}: expected channel=unit, as pressure=bar")
    return channel, unit
