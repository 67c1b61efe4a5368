"""What judges recordings: an artefact, the general model, or a network trained on the spot; for scan and evaluate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from gatewatch.models.artefact.files import Artefact, load_artefact, model_folder
from gatewatch.models.detectors.detector import Scanner
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.errors import GatewatchError, RecordingError
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.reading import Reader
from gatewatch.models.recordings.recording import Recording, joined, read_recordings, recording_files, stem
from gatewatch.models.scan import Scan, scan_after, scan_together, scan_trained_on_beginning
from gatewatch.models.text import listed
from gatewatch.service.cli_support.trainings import train_config, train_detector

if TYPE_CHECKING:
    from gatewatch.models.training.config import TrainConfig

SIDE_BY_SIDE = 256
"""Recordings scanned at once, as long as they have the same channels: 10 µs a reading of two, where it is 50 of 16."""

VALUES_SIDE_BY_SIDE = 2**22
"""Values held at once for that: half a gigabyte while they are scanned."""

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

Read = Callable[[Path], Iterable[list[Recording]]]
"""The parts of a file, each with a recording for each of its streams; of most files there is one."""


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

    @property
    def carries(self) -> bool:
        """Whether a stream that goes on in a later file keeps its state."""
        return self.train_on is None and self.train_rows is None

    @property
    def takes_parts(self) -> bool:
        """Whether a file may come part by part: nothing is trained, and no network reads it from both ends."""
        if self.train_on is not None or self.train_rows is not None:
            return False
        manifest = load_artefact(model_folder(self.model or "general")).manifest
        return manifest.kind != "recording"

    def scans(
        self,
        paths: Sequence[Path],
        files: Sequence[Path],
        read: Read,
        on_readings: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[Path, list[Scan]]]:
        """The scans of recording files in the order given, one for each stream in a file; each with its file.

        A stream that goes on in a later file keeps its state, where nothing is trained: files of one hour each are
        scored as the file of the whole day. There, files for which `read` gives nothing are left out, and a large file
        comes in parts.

        Args:
            paths: the files.
            files: the files and folders in which they were found, which say where their training files are.
            read: reads a file, also one to train on: part by part, a recording for each stream.
            on_readings: called now and then with how many more were scored.
        """
        if self.train_on is None and self.train_rows is None:
            folder = model_folder(self.model or "general")
            yield from _Carrying(folder, self.alerts_per_week, on_readings).scans(paths, read)
            return
        config = train_config(false_alarm_rate=self.false_alarm_rate, epochs=self.epochs, seed=self.seed)
        for path in paths:
            recording = _the_only(path, _whole(read(path)))
            paired = None if self.train_on is None else _paired(path, files, self.train_on)
            normal = None if paired is None else _the_only(paired, _whole(read(paired)))
            yield path, [_train_and_scan(path, recording, normal, self.train_rows or 0, config)]
            on_readings(len(recording))


def _values(part: Sequence[Recording]) -> int:
    return sum(recording.values.size for recording in part)


def _whole(parts: Iterable[list[Recording]]) -> list[Recording]:
    """The recordings of a file that comes in parts."""
    streams: dict[str, list[Recording]] = {}
    for part in parts:
        for piece in part:
            streams.setdefault(piece.stream, []).append(piece)
    return [joined(pieces) for pieces in streams.values()]


class _Carrying:
    """Scans recordings side by side, and carries each stream's state on into its next file."""

    def __init__(self, folder: Path, alerts_per_week: float | None, on_readings: Callable[[int], None]) -> None:
        self._folder, self._alerts_per_week, self._on_readings = folder, alerts_per_week, on_readings
        self._ends: dict[tuple[str, tuple[str, ...]], tuple[Path, int, NDArray[Any]]] = {}
        self._detector: Scanner | None = None

    def scans(self, paths: Sequence[Path], read: Read) -> Iterator[tuple[Path, list[Scan]]]:
        waiting: list[tuple[Path, list[Recording]]] = []
        held = 0
        for path in paths:
            for part in read(path):
                there = {recording.stream for _, one in waiting for recording in one}
                if waiting and (
                    sum(len(one) for _, one in waiting) + len(part) > SIDE_BY_SIDE
                    or held + _values(part) > VALUES_SIDE_BY_SIDE
                    or any(recording.stream in there for recording in part)
                ):
                    yield from self._together(waiting)
                    waiting, held = [], 0
                waiting.append((path, part))
                held += _values(part)
        if waiting:
            yield from self._together(waiting)

    def _together(self, files: Sequence[tuple[Path, list[Recording]]]) -> Iterator[tuple[Path, list[Scan]]]:
        """The scans of files whose streams all differ; those of the same channels go together, at half the time."""
        recordings = [recording for _, one in files for recording in one]
        origins = [path for path, one in files for _ in one]
        found: dict[int, Scan] = {}
        for channels in dict.fromkeys(recording.channels for recording in recordings):
            places = [place for place, recording in enumerate(recordings) if recording.channels == channels]
            detector = self._of(channels)
            for start in range(0, len(places), SIDE_BY_SIDE):
                some = places[start : start + SIDE_BY_SIDE]
                states = np.concatenate([self._begin(recordings[at], origins[at], detector) for at in some])
                scans = scan_together(detector, [recordings[at] for at in some], states, self._on_readings)
                found.update(zip(some, scans, strict=True))
        for place, scanned in found.items():
            last_ms = int(recordings[place].timestamps_ms[-1])
            self._ends[_key(recordings[place])] = origins[place], last_ms, scanned.states
        each = iter(range(len(recordings)))
        return iter([(path, [found[next(each)] for _ in one]) for path, one in files])

    def _of(self, channels: tuple[str, ...]) -> Scanner:
        """The detector of these channels; the parts of a large file come one after the other."""
        if self._detector is None or self._detector.channels != channels:
            self._detector = load_detector(self._folder, channels, self._alerts_per_week)
        return self._detector

    def _begin(self, recording: Recording, path: Path, detector: Scanner) -> NDArray[Any]:
        """(1,) the state at the end of the part before, or of a file before this one in time; else a fresh one."""
        before, last_ms, states = self._ends.get(_key(recording), (path, 0, None))
        goes_on = states is not None and (before == path or recording.timestamps_ms[0] > last_ms)
        return states if states is not None and goes_on else detector.initial(1)


def _key(recording: Recording) -> tuple[str, tuple[str, ...]]:
    return recording.stream, recording.channels


def _the_only(path: Path, recordings: Sequence[Recording]) -> Recording:
    if len(recordings) != 1:
        raise RecordingError(f"{path}: {len(recordings)} streams in one file; expected one stream a file")
    return recordings[0]


def one_stream(path: Path, how: ReadOptions, tell: Callable[[Reader], None]) -> Recording:
    """The recording in a file; `tell` as in read_parts.

    Raises:
        RecordingError: the file cannot be read, or holds several streams.
    """
    return _the_only(path, read_recordings(path, how, tell))


def below(path: Path, files: Sequence[Path]) -> Path:
    """Where a file stands below the folder it was found in."""
    for folder in files:
        if folder.is_dir() and path.is_relative_to(folder):
            return path.relative_to(folder)
    return Path(path.name)


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
            f"{path} has the channels {listed(recording.channels)}; found {listed(normal.channels)} in the "
            "recording to train on"
        )
    trained = train_detector([recording.rows(0, train_rows) if normal is None else normal], config)
    detector = TrainedDetector(Artefact(trained.manifest, trained.graph, bytes(8)))
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
