"""What judges recordings: an artefact, the general model, or a network trained on the spot; for scan and evaluate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.artefact import Artefact, model_folder
from models.detector import Detector
from models.errors import GatewatchError, RecordingError
from models.general import load_detector
from models.recordings import Recording, read_recordings, recording_files, stem
from models.scan import Scan, scan_after, scan_together, scan_trained_on_beginning
from service.commands.training import train_config, train_detector

if TYPE_CHECKING:
    from models.training.config import TrainConfig

SIDE_BY_SIDE = 16
"""Recordings scanned at once, as long as they have the same channels."""

Model = Annotated[
    Path | None,
    typer.Option("--model", help="folder of an artefact; without it and without training, the general model"),
]
Channel = Annotated[list[str] | None, typer.Option("--channel", help="score this channel only; may be repeated")]
TrainOn = Annotated[Path | None, typer.Option("--train", help="train on this file first; folders pair by name")]
TrainRows = Annotated[int | None, typer.Option("--train-rows", help="train on the first rows of each file", min=1)]
FalseAlarmRate = Annotated[
    float, typer.Option("--false-alarm-rate", help="with training: share of normal readings judged anomalous")
]
AlertsPerWeek = Annotated[
    float | None,
    typer.Option("--alerts-per-week", help="with the general model: false alerts allowed; 1 if not given"),
]
Epochs = Annotated[int, typer.Option("--epochs", help="with training: most passes over the recording")]
Seed = Annotated[int, typer.Option("--seed", help="with training")]

Read = Callable[[Path], Recording]


@dataclass(frozen=True)
class Judge:
    """The options that say what judges.

    Raises:
        GatewatchError: options that exclude each other, or one out of its bounds.
    """

    model: Path | None
    train_on: Path | None
    train_rows: int | None
    false_alarm_rate: float
    alerts_per_week: float | None
    epochs: int
    seed: int

    def __post_init__(self) -> None:
        if sum(source is not None for source in (self.model, self.train_on, self.train_rows)) > 1:
            raise RecordingError("expected at most one of --model DIR, --train FILE, --train-rows N")
        if self.alerts_per_week is not None and (self.train_on or self.train_rows):
            raise GatewatchError("--alerts-per-week is for the general model; with training, name a --false-alarm-rate")
        if self.alerts_per_week is not None and not 0 < self.alerts_per_week <= 10_000:
            raise GatewatchError(
                f"--alerts-per-week is {self.alerts_per_week}: expected a number above 0, at most 10000"
            )

    def scans(self, paths: Sequence[Path], files: Sequence[Path], read: Read) -> Iterator[Scan]:
        """The scans of recordings, in the order given.

        Args:
            paths: the recordings.
            files: the files and folders in which they were found, which say where their training files are.
            read: reads a recording, also one to train on.
        """
        if self.train_on is None and self.train_rows is None:
            folder = model_folder(self.model or "general")
            for start in range(0, len(paths), SIDE_BY_SIDE):
                recordings = [read(path) for path in paths[start : start + SIDE_BY_SIDE]]
                yield from _scan_side_by_side(recordings, folder, self.alerts_per_week)
            return
        config = train_config(false_alarm_rate=self.false_alarm_rate, epochs=self.epochs, seed=self.seed)
        for path in paths:
            recording = read(path)
            normal = None if self.train_on is None else read(_paired(path, files, self.train_on))
            yield _train_and_scan(path, recording, normal, self.train_rows or 0, config)


def one_stream(path: Path, channels: Sequence[str] | None) -> Recording:
    """The recording in a file, with all its channels or with some.

    Raises:
        RecordingError: the file cannot be read, or holds several streams.
    """
    recordings = read_recordings(path)
    if len(recordings) != 1:
        raise RecordingError(f"{path}: {len(recordings)} streams in one file; expected one stream a file")
    (recording,) = recordings
    return recording.only(channels) if channels else recording


def below(path: Path, files: Sequence[Path]) -> Path:
    """Where a file stands below the folder it was found in."""
    for folder in files:
        if folder.is_dir() and path.is_relative_to(folder):
            return path.relative_to(folder)
    return Path(path.name)


def _scan_side_by_side(recordings: Sequence[Recording], folder: Path, alerts_per_week: float | None) -> Iterator[Scan]:
    """The scans in the order given; recordings of the same channels go together, at half the time or less."""
    found: dict[int, Scan] = {}
    for channels in dict.fromkeys(recording.channels for recording in recordings):
        places = [place for place, recording in enumerate(recordings) if recording.channels == channels]
        detector = load_detector(folder, channels, alerts_per_week)
        found.update(zip(places, scan_together(detector, [recordings[at] for at in places]), strict=True))
    return (found[place] for place in range(len(recordings)))


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
    if normal is not None and set(normal.channels) != set(recording.channels):
        raise RecordingError(
            f"{path} has the channels {', '.join(recording.channels)}; found {', '.join(normal.channels)} in the "
            "recording to train on"
        )
    trained = train_detector([recording.rows(0, train_rows) if normal is None else normal], config)
    detector = Detector(Artefact(trained.manifest, trained.graph, bytes(8)))
    if normal is None:
        return scan_trained_on_beginning(detector, recording, train_rows)
    return scan_after(detector, normal, recording)


def _paired(path: Path, files: Sequence[Path], train_on: Path) -> Path:
    """The training file for `path`: the one given, or that of the same name in the folder given."""
    if not train_on.is_dir():
        return train_on
    beside = train_on / below(path, files)
    candidates = [p for p in recording_files([train_on]) if stem(p) == stem(path)]
    if beside.is_file():
        return beside
    if len(candidates) != 1:
        raise RecordingError(
            f"{path}: found {len(candidates)} recordings named {stem(path)} in {train_on}; expected one"
        )
    return candidates[0]
