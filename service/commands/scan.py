"""gatewatch scan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.artefact import Artefact, model_folder
from models.detector import Detector
from models.errors import GatewatchError, RecordingError
from models.general import load_detector
from models.recordings import Recording, read_recordings, recording_files, stem
from models.scan import Scan, scan_after, scan_together, scan_trained_on_beginning, summary, write_scores
from service.commands.terminal import Files
from service.commands.train import train_config, train_detector

if TYPE_CHECKING:
    from models.training.config import TrainConfig

SIDE_BY_SIDE = 16
"""Recordings scanned at once, as long as they have the same channels."""


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
    config = train_config(false_alarm_rate=false_alarm_rate, epochs=epochs, seed=seed)
    for path, target in zip(paths, targets, strict=True):
        recording = _one_stream(path, channel)
        normal = None if train_on is None else _one_stream(_paired(path, files, train_on), channel)
        _write_scan(_train_and_scan(path, recording, normal, train_rows or 0, config), target)


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
) -> Scan:
    """Train on a recording given, or on the first rows of `recording`, and carry the state on into what is scored."""

    if normal is None and train_rows >= len(recording):
        raise RecordingError(f"{path}: --train-rows {train_rows}, but the file has {len(recording)} rows")
    trained = train_detector([recording.rows(0, train_rows) if normal is None else normal], config)
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
