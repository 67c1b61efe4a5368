"""gatewatch scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gatewatch.models.detectors.detector import WARMING_UP
from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.codes import with_missing
from gatewatch.models.recordings.recording import Recording, read_recordings, recording_files, stem
from gatewatch.models.scan import summary, write_scores
from gatewatch.service.cli_support.oddities import Missing, say_what_is_odd
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
    below,
)
from gatewatch.service.cli_support.terminal import Files, sensors, tell


def scan_files(
    files: Files,
    out: Annotated[Path, typer.Option(help="CSV to write, or a folder when several files or a folder are scanned")],
    model: Model = None,
    channel: Channel = None,
    train_on: TrainOn = None,
    train_rows: TrainRows = None,
    false_alarm_rate: FalseAlarmRate = 0.001,
    alerts_per_week: AlertsPerWeek = None,
    epochs: Epochs = 60,
    seed: Seed = 0,
    missing: Missing = None,
    stream: Annotated[
        str | None, typer.Option(help="all files are of this one stream: each goes on where the one before ended")
    ] = None,
) -> None:
    """Score every row of recordings with the detector that serves, and write one row of scores for each.

    A stream that is in several files is carried on from each to the next, in the order given.
    """
    judge = Judge(model, train_on, train_rows, false_alarm_rate, alerts_per_week, epochs, seed)
    paths = recording_files(files)
    targets = _targets(paths, files, out, recording_files([train_on]) if train_on is not None else [])

    def read(path: Path) -> list[Recording]:
        recordings = with_missing(read_recordings(path), missing or ())
        if stream is not None and len(recordings) == 1:
            recordings = [replace(recordings[0], stream=stream)]
        recordings = [one.only(channel) for one in recordings] if channel else sensors(recordings)
        for recording in recordings:
            say_what_is_odd(recording)
        return recordings

    unjudged = readings = 0
    for scans, target in zip(judge.scans(paths, files, read), targets, strict=True):
        write_scores(scans, target)
        tell(f"{target}: {summary(scans)}")
        unjudged += sum(int((found.status == WARMING_UP).sum()) for found in scans)
        readings += sum(len(found.recording) for found in scans)
    if unjudged and len(paths) > 1:
        tell(f"in all {unjudged} of {readings} readings were never judged")


def _targets(paths: Sequence[Path], files: Sequence[Path], out: Path, train_on: Sequence[Path]) -> list[Path]:
    """Where the scores of each file go, before anything is scanned: no two to one place, and none over a recording."""
    one = len(files) == 1 and files[0].is_file()
    targets = [out if one else out / below(path, files).with_name(stem(path) + ".csv") for path in paths]
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
