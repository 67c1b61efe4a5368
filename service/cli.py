"""The command gatewatch: serve, train, scan, replay, demo."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models.artefact import model_folder
from models.detector import Detector
from models.errors import ArtefactError, GatewatchError, RecordingError
from models.general import load_detector
from models.recordings import Recording, read_recordings, recording_files, stem
from models.scan import Scan, scan_after, scan_together, scan_trained_on_beginning, summary, write_scores
from service.settings import Settings, redact

if TYPE_CHECKING:
    from models.training.config import TrainConfig
    from models.training.loop import EpochReport
    from models.training.train import Trained

BAD_INPUT = 2
SIDE_BY_SIDE = 16
"""Recordings scanned at once, as long as they have the same channels."""

app = typer.Typer(
    help="Gatewatch: an anomaly score for every reading of every sensor stream.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
errors = Console(stderr=True, soft_wrap=True, highlight=False)

Files = Annotated[list[Path], typer.Argument(help="files ending in .csv, .csv.gz or .parquet, or folders of them")]


def main() -> None:
    """Run the command; what a user can mend becomes one line on standard error and exit status 2."""
    try:
        app()
    except GatewatchError as error:
        errors.print(f"gatewatch: {error}", markup=False)
        sys.exit(BAD_INPUT)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="address to listen on [GATEWATCH_HOST]")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on [GATEWATCH_PORT]")] = None,
    workers: Annotated[int | None, typer.Option(help="processes [GATEWATCH_WORKERS]")] = None,
    show_settings: Annotated[
        bool, typer.Option("--show-settings", help="print the settings, redacted, and end")
    ] = False,
) -> None:
    """Answer HTTP. Without GATEWATCH_REDIS_URL a private Redis is started, with its data in GATEWATCH_DATA_DIR."""
    import uvicorn

    from service.edge import Edge, allow_files
    from service.private_redis import PrivateRedisError, start_private_redis

    given = {"GATEWATCH_HOST": host, "GATEWATCH_PORT": port, "GATEWATCH_WORKERS": workers}
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})
    settings = _settings()
    if show_settings:
        print(json.dumps(settings.redacted(), indent=1))
        return
    from service.logs import configure_logs

    configure_logs(settings.log_level)

    _detector(settings).require_live()  # a bad artefact is reported before anything is started
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again once it has stopped
        signal.signal(number, lambda *_: sys.exit(0))
    with contextlib.ExitStack() as stack:
        if settings.redis_url is None:
            appendfsync: Literal["always", "everysec"] = "always" if settings.durability == "strict" else "everysec"
            try:
                private = stack.enter_context(start_private_redis(settings.data_dir, appendfsync))
            except PrivateRedisError as error:
                raise GatewatchError(str(error)) from error
            private.keep_running()
            os.environ["GATEWATCH_REDIS_URL"] = private.url
        if settings.workers > 1:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="gatewatch-")
            )
        edge = Edge(
            settings.head_deadline_s, settings.body_deadline_s, settings.head_bytes, allow_files(settings.connections)
        )
        uvicorn.run(
            "service.app:create_app",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            loop="uvloop",
            http=cast(Any, edge),  # uvicorn only calls it; each worker gets a copy
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=settings.shutdown_grace_s,
        )


@app.command()
def train(
    files: Files,
    out: Annotated[Path, typer.Option(help="folder of the artefact to write")],
    architecture: Annotated[str, typer.Option(help="lstm, gru, ...; an unknown one lists them all")] = "lstm",
    layers: Annotated[int, typer.Option(help="layers on top of each other")] = 2,
    hidden: Annotated[int, typer.Option(help="units a layer")] = 64,
    memory: Annotated[int, typer.Option(help="readings that attention, window and transformer look back")] = 64,
    dropout: Annotated[float, typer.Option(help="share of units dropped between layers in training")] = 0.1,
    epochs: Annotated[int, typer.Option(help="most passes over the recordings")] = 60,
    time_limit_s: Annotated[float | None, typer.Option(help="end training after so many seconds")] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(help="share of normal readings that may be judged anomalous")
    ] = 0.001,
    held_out: Annotated[float, typer.Option(help="share of each recording, its end, kept for calibration")] = 0.25,
    seed: Annotated[int, typer.Option(help="the same seed and data give the same artefact")] = 0,
    unit: Annotated[list[str] | None, typer.Option(help="channel=unit, for people; may be repeated")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="folder to save to after each epoch, and to resume from")
    ] = None,
) -> None:
    """Train a detector on recordings of normal operation and write it as an artefact. Needs the extra `train`."""
    recordings = [recording for path in recording_files(files) for recording in read_recordings(path)]
    config = _config(
        architecture=architecture, layers=layers, hidden=hidden, memory=memory, dropout=dropout, epochs=epochs,
        time_limit_s=time_limit_s, false_alarm_rate=false_alarm_rate, held_out=held_out, seed=seed,
    )  # fmt: skip
    console = Console(stderr=True)
    trained = _train(recordings, config, console, dict(_unit(text) for text in unit or []), checkpoint)
    trained.save(out)
    calibration, training = trained.manifest.calibration, trained.manifest.training
    if training["too_short_and_left_out"]:
        errors.print(f"too short, left out: {', '.join(training['too_short_and_left_out'])}", markup=False)
    print(
        f"{out}: {training['readings']} readings of {training['recordings']} recordings, held-out loss "
        f"{training['held_out_loss']:.4f}, thresholds for a false-alarm rate of "
        f"{calibration.false_alarm_rate:g} with {calibration.confidence} confidence"
    )


@app.command("scan")
def scan_files(
    files: Files,
    out: Annotated[Path, typer.Option(help="CSV to write, or a folder when several files or a folder are scanned")],
    model: Annotated[
        Path | None, typer.Option(help="folder of an artefact; without it and without training, the general model")
    ] = None,
    channel: Annotated[list[str] | None, typer.Option(help="score this channel only; may be repeated")] = None,
    train_on: Annotated[
        Path | None, typer.Option("--train", help="train on this file first; folders pair by name")
    ] = None,
    train_rows: Annotated[int | None, typer.Option(help="train on the first rows of each file", min=1)] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(help="with training: share of normal readings judged anomalous")
    ] = 0.001,
    alerts_per_week: Annotated[
        float | None, typer.Option(help="with the general model: false alerts allowed; 2 if not given")
    ] = None,
    epochs: Annotated[int, typer.Option(help="with training: most passes over the recording")] = 60,
    seed: Annotated[int, typer.Option(help="with training")] = 0,
) -> None:
    """Score every row of recordings with the detector that serves, and write one row of scores for each."""
    if sum(source is not None for source in (model, train_on, train_rows)) > 1:
        raise RecordingError("expected at most one of --model DIR, --train FILE, --train-rows N")
    if alerts_per_week is not None and (train_on or train_rows):
        raise GatewatchError("--alerts-per-week is for the general model; with training, name a --false-alarm-rate")
    if alerts_per_week is not None and not 0 < alerts_per_week <= 10_000:
        raise GatewatchError(f"--alerts-per-week is {alerts_per_week}: expected a number above 0, at most 10000")
    console = Console(stderr=True)
    paths = recording_files(files)
    targets = _targets(paths, files, out, recording_files([train_on]) if train_on is not None else [])
    if train_on is None and train_rows is None:
        folder = model_folder(model or "general")
        for start in range(0, len(paths), SIDE_BY_SIDE):
            some = slice(start, start + SIDE_BY_SIDE)
            scans = _scan_side_by_side([_one_stream(path, channel) for path in paths[some]], folder, alerts_per_week)
            for found, target in zip(scans, targets[some], strict=True):
                _write_scan(found, target)
        return
    config = _config(false_alarm_rate=false_alarm_rate, epochs=epochs, seed=seed)
    for path, target in zip(paths, targets, strict=True):
        recording = _one_stream(path, channel)
        normal = None if train_on is None else _one_stream(_paired(path, files, train_on), channel)
        _write_scan(_train_and_scan(path, recording, normal, train_rows or 0, config, console), target)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="a CSV or Parquet recording")],
    url: Annotated[str, typer.Option(help="the service")] = "http://127.0.0.1:8000",
    stream: Annotated[
        str | None, typer.Option(help="stream to post to, for a file of one; default: the recording's name")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="CSV for timestamp, score and status of each reading, and its stream if there are several"),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(
            help="readings a request; no more than the service's history, so that all can be sent again", min=1
        ),
    ] = 128,
    start_seq: Annotated[int, typer.Option(help="seq of the first reading", min=0)] = 0,
) -> None:
    """Post a recording to a running service, every row a reading numbered by `seq`.

    Exit status 1 if a reading was rejected or in conflict with what the service has.
    """
    from service.replay import replay_recordings

    recordings = read_recordings(file)
    if stream is not None:
        if len(recordings) > 1:
            raise RecordingError(
                f"{file}: --stream {stream} names one stream, the file holds {len(recordings)}; without --stream each "
                "is posted under its own name"
            )
        recordings = [replace(recordings[0], stream=stream)]
    if out is not None and out.resolve() == file.resolve():
        raise RecordingError(f"{out}: would be written over the recording; name another file")
    found = replay_recordings(recordings, url, out, batch, start_seq)
    for name, counts in found.counts.items():
        print(f"{name}: " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    if found.refused:
        errors.print(f"{found.refused} readings were rejected or in conflict; the first: {found.first}", markup=False)
        raise typer.Exit(1)


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="end after the table")] = False,
    write_recordings: Annotated[
        Path | None, typer.Option(help="only write the station's normal recordings into this folder, to train on")
    ] = None,
) -> None:
    """Watch a simulated pump station: faults injected at known times against what was detected."""
    from service.demo import run, station

    if write_recordings is not None:
        station.write_recordings(write_recordings)
        return
    raise typer.Exit(run.run_demo(once=once))


def _detector(settings: Settings) -> Detector:
    try:
        return load_detector(model_folder(settings.model), settings.channels, settings.alerts_per_week)
    except ArtefactError as error:
        hint = " in GATEWATCH_CHANNELS, as pressure,flow" if not settings.channels else ""
        raise GatewatchError(f"{error}{hint}") from error


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = f"GATEWATCH_{'_'.join(str(part) for part in problem['loc']).upper()}"
            value = redact(problem["input"]) if name == "GATEWATCH_REDIS_URL" else problem["input"]
            message = problem["msg"].removeprefix("Value error, ")
            found = "is not set" if problem["type"] == "missing" else f"is {value!r:.80}: {message}"
            lines.append(f"{name} {found}")
        raise GatewatchError("; ".join(lines)) from error


def _config(**settings: object) -> TrainConfig:
    try:
        from models.training.config import TrainConfig
    except ImportError as error:
        raise GatewatchError(f"training needs the extra `train`: pip install 'gatewatch[train]' ({error})") from error
    try:
        return TrainConfig.model_validate(settings)
    except ValidationError as error:
        problem = error.errors()[0]
        name = "-".join(str(part) for part in problem["loc"]).replace("_", "-")
        raise GatewatchError(f"--{name} is {problem['input']!r}: {problem['msg']}") from error


def _train(
    recordings: Sequence[Recording],
    config: TrainConfig,
    console: Console,
    units: dict[str, str] | None = None,
    checkpoint: Path | None = None,
) -> Trained:
    try:
        from models.training.train import train as train_detector
    except ImportError as error:
        raise GatewatchError(f"training needs the extra `train`: pip install 'gatewatch[train]' ({error})") from error
    with _epochs(config.epochs, console) as show:
        return train_detector(recordings, config, units=units, checkpoint=checkpoint, on_epoch=show.on_epoch)


class _Epochs:
    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("training", total=total, losses="")

    def on_epoch(self, report: EpochReport) -> None:
        losses = f"loss {report.train_loss:.4f}, held out {report.held_out_loss:.4f}"
        self._progress.update(self._task, completed=report.epoch, losses=losses)


@contextlib.contextmanager
def _epochs(total: int, console: Console) -> Iterator[_Epochs]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[losses]}"))
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        yield _Epochs(progress, total)


def _scan_side_by_side(recordings: Sequence[Recording], folder: Path, alerts_per_week: float | None) -> Iterator[Scan]:
    """The scans in the order given; recordings of the same channels go together, at half the time or less."""
    found: dict[int, Scan] = {}
    for channels in dict.fromkeys(recording.channels for recording in recordings):
        places = [place for place, recording in enumerate(recordings) if recording.channels == channels]
        detector = load_detector(folder, channels, alerts_per_week)
        found.update(zip(places, scan_together(detector, [recordings[at] for at in places]), strict=True))
    return (found[place] for place in range(len(recordings)))


def _write_scan(found: Scan, target: Path) -> None:
    write_scores(found, target)
    print(f"{target}: {summary(found)}")


def _train_and_scan(
    path: Path,
    recording: Recording,
    normal: Recording | None,
    train_rows: int,
    config: TrainConfig,
    console: Console,
) -> Scan:
    """Train on a recording given, or on the first rows of `recording`, and carry the state on into what is scored."""
    from models.artefact import Artefact

    if normal is None and train_rows >= len(recording):
        raise RecordingError(f"{path}: --train-rows {train_rows}, but the file has {len(recording)} rows")
    trained = _train([recording.rows(0, train_rows) if normal is None else normal], config, console)
    detector = Detector(Artefact(trained.manifest, trained.graph, bytes(8)))
    if normal is None:
        return scan_trained_on_beginning(detector, recording, train_rows)
    return scan_after(detector, normal, recording)


def _paired(path: Path, files: Sequence[Path], train_on: Path) -> Path:
    """The training file for `path`: the one given, or that of the same name in the folder given."""
    if not train_on.is_dir():
        return train_on
    beside = train_on / _below(path, files)
    candidates = [p for p in recording_files([train_on]) if stem(p) == stem(path)]
    if beside.is_file():
        return beside
    if len(candidates) != 1:
        raise RecordingError(
            f"{path}: found {len(candidates)} recordings named {stem(path)} in {train_on}; expected one"
        )
    return candidates[0]


def _targets(paths: Sequence[Path], files: Sequence[Path], out: Path, train_on: Sequence[Path]) -> list[Path]:
    """Where the scores of each file go, before anything is scanned: no two to one place, and none over a recording."""
    one = len(files) == 1 and files[0].is_file()
    targets = [out if one else out / _below(path, files).with_name(stem(path) + ".csv") for path in paths]
    read = {path.resolve() for path in (*paths, *train_on)}
    taken: dict[Path, Path] = {}
    for path, target in zip(paths, targets, strict=True):
        place = target.resolve()
        if place.is_dir():
            raise RecordingError(f"{target} is a folder; the scores of {path} need the name of a file")
        if place in taken:
            raise RecordingError(
                f"{taken[place]} and {path} would both be written to {target}; scan them into different folders, or "
                "the folder above theirs"
            )
        if place in read:
            raise RecordingError(f"{path}: its scores would be written over the recording {target}; name another --out")
        taken[place] = path
    return targets


def _below(path: Path, files: Sequence[Path]) -> Path:
    """Where a file stands below the folder it was found in."""
    for folder in files:
        if folder.is_dir() and path.is_relative_to(folder):
            return path.relative_to(folder)
    return Path(path.name)


def _one_stream(path: Path, channels: Sequence[str] | None) -> Recording:
    recordings = read_recordings(path)
    if len(recordings) != 1:
        raise RecordingError(f"{path}: {len(recordings)} streams in one file; scan takes one stream a file")
    (recording,) = recordings
    return recording.only(channels) if channels else recording


def _unit(text: str) -> tuple[str, str]:
    channel, equals, unit = text.partition("=")
    if not equals:
        raise GatewatchError(f"--unit {text!r}: expected channel=unit, as pressure=bar")
    return channel, unit


if __name__ == "__main__":
    main()
