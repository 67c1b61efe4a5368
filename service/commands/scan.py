"""gatewatch scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gatewatch.models.errors import GatewatchError
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.recording import recording_files
from gatewatch.models.scores import FORMATS
from gatewatch.service.cli_support.answers import Answer, console_of_tables
from gatewatch.service.cli_support.fleets import DaskAddress, Processes, Workforce
from gatewatch.service.cli_support.pictures import require_picture
from gatewatch.service.cli_support.progress import scan_progress
from gatewatch.service.cli_support.reading import reads_recordings
from gatewatch.service.cli_support.scan_files import Piece, ScanSource, Targets, places, scan_by_workers
from gatewatch.service.cli_support.scanning import (
    AlertsPerWeek,
    Channel,
    Epochs,
    FalseAlarmRate,
    Judge,
    Model,
    Seed,
    TrainOn,
    TrainRows,
)
from gatewatch.service.cli_support.terminal import Files, stopped, tell, tell_json, warn

SOME_UNREAD = 1
"""Exit status where files of a folder could not be read and others were scanned."""


@reads_recordings
def scan_files(
    files: Files,
    out: Annotated[
        Path | None,
        typer.Option(
            help="file for the scores, or a folder when several files or a folder are scanned; none if not given"
        ),
    ] = None,
    form: Annotated[str, typer.Option("--format", help=f"of the scores: {', '.join(FORMATS)}")] = "csv",
    plot: Annotated[
        Path | None,
        typer.Option(help="picture to write, FILE.html or FILE.png; - draws it in the terminal"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print what was found as JSON")] = False,
    model: Model = None,
    channel: Channel = None,
    train_on: TrainOn = None,
    train_rows: TrainRows = None,
    false_alarm_rate: FalseAlarmRate = 0.001,
    alerts_per_week: AlertsPerWeek = None,
    epochs: Epochs = 60,
    seed: Seed = 0,
    stream: Annotated[
        str | None, typer.Option(help="all files are of this one stream: each goes on where the one before ended")
    ] = None,
    processes: Processes = None,
    dask: DaskAddress = None,
    *,
    how: ReadOptions,
) -> None:
    """Score every row of recordings with the detector that serves, and tell what was found, when, and why.

    A stream that is in several files is carried on from each to the next, in the order given. With --out, a row of
    scores is written for each row.
    """
    judge = Judge(model, train_on, train_rows, false_alarm_rate, alerts_per_week, epochs, seed)
    if form not in FORMATS:
        raise GatewatchError(f"--format {form}: expected one of {', '.join(FORMATS)}")
    in_terminal = plot is not None and str(plot) == "-"
    if plot is not None and not in_terminal:
        require_picture(plot)
    if dask is not None:  # a worker is somewhere else
        files, out = [path.resolve() for path in files], out and out.resolve()
    paths = recording_files(files)
    workforce = Workforce(processes, dask)
    if workforce.is_given and (plot is not None or stream is not None):
        raise GatewatchError("with --processes and --dask each file is for itself; expected no --plot and no --stream")
    trained_on = recording_files([train_on]) if train_on is not None else []
    targets = Targets({}, form) if out is None else Targets(places(paths, files, out, trained_on, form), form)
    if workforce.is_given:
        whole = Piece(paths, files, targets.places, form, how, channel, judge)
        try:
            answer, unread, before = scan_by_workers(whole, out, workforce)
        except KeyboardInterrupt:
            stopped("; run the same command again for the files that were not scanned" if out else "")
        if before:
            warn(f"{len(before)} of {len(paths)} files were scanned before, and their scores are there")
        _tell_all(answer, [path for path in paths if path not in before], targets, unread, as_json=as_json)
        if unread:
            raise typer.Exit(SOME_UNREAD)
        return
    answer = Answer(pictured=plot is not None)
    with scan_progress() as progress:
        source = ScanSource(how, channel, stream, judge, answer, progress, lenient=[p for p in paths if p not in files])
        try:
            with targets:
                for path, scans in judge.scans(paths, files, source.parts, progress.count):
                    targets.write(path, scans)
                    answer.take(path, scans)
        except KeyboardInterrupt:
            kept = f"; their scores are in {', '.join(map(str, targets.kept()))}" if targets.kept() else ""
            stopped(f" after {progress.done:,} readings{kept}. A scan begins anew: give it fewer files or rows")
    _tell_all(answer, paths, targets, source.unread, as_json=as_json, in_terminal=in_terminal)
    if plot is not None and not in_terminal:
        answer.draw(plot, 0)
        if not as_json:
            tell(f"{plot} has the picture.")
    if source.unread:
        raise typer.Exit(SOME_UNREAD)


def _tell_all(
    answer: Answer,
    paths: Sequence[Path],
    targets: Targets,
    unread: Sequence[Path],
    *,
    as_json: bool,
    in_terminal: bool = False,
) -> None:
    if as_json:
        tell_json(answer.as_json())
    else:
        _show(answer, paths, targets, unread, in_terminal=in_terminal)


def _show(
    answer: Answer, paths: Sequence[Path], targets: Targets, unread: Sequence[Path], *, in_terminal: bool
) -> None:
    console = console_of_tables()
    for path in paths:
        if path not in unread:
            tell(f"{targets.places.get(path, path)}: {answer.of(path)}")
    answer.show(console)
    if in_terminal:
        answer.draw(None, console.width)
    if answer.whole.unjudged and len(paths) > 1:
        tell(f"in all {answer.whole.unjudged} of {answer.whole.readings} readings were never judged")
