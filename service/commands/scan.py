"""gatewatch scan."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import typer

from gatewatch.models.errors import GatewatchError, RecordingError
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.reading import Reader
from gatewatch.models.recordings.recording import Recording, read_parts, read_recordings, recording_files, stem
from gatewatch.models.scan import Scan
from gatewatch.models.scores import FORMATS, ScoreWriter, part_of, scores_to
from gatewatch.service.cli_support.answers import Answer, console_of_tables
from gatewatch.service.cli_support.oddities import say_what_is_odd
from gatewatch.service.cli_support.pictures import require_picture
from gatewatch.service.cli_support.progress import ScanProgress, scan_progress
from gatewatch.service.cli_support.reading import Announcer, reads_recordings
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
from gatewatch.service.cli_support.terminal import Files, sensors, stopped, tell, tell_json, warn_in_one_line

LARGE_BYTES = 2**24
"""A file of more is scanned part by part, as it is read: a row of 4 channels takes 520 bytes while it is scanned."""

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
    paths = recording_files(files)
    trained_on = recording_files([train_on]) if train_on is not None else []
    targets = _Targets({}, form) if out is None else _Targets(_places(paths, files, out, trained_on, form), form)
    answer = Answer(pictured=plot is not None)
    with scan_progress() as progress:
        source = _Source(how, channel, stream, judge, answer, progress, lenient=[p for p in paths if p not in files])
        try:
            with targets:
                for path, scans in judge.scans(paths, files, source.parts, progress.count):
                    targets.write(path, scans)
                    answer.take(path, scans)
        except KeyboardInterrupt:
            kept = f"; their scores are in {', '.join(map(str, targets.kept()))}" if targets.kept() else ""
            stopped(f" after {progress.done:,} readings{kept}. A scan begins anew: give it fewer files or rows")
    if as_json:
        tell_json(answer.as_json())
    else:
        _show(answer, paths, targets, source.unread, in_terminal=in_terminal)
    if plot is not None and not in_terminal:
        answer.draw(plot, 0)
        if not as_json:
            tell(f"{plot} has the picture.")
    if source.unread:
        raise typer.Exit(SOME_UNREAD)


def _show(
    answer: Answer, paths: Sequence[Path], targets: _Targets, unread: Sequence[Path], *, in_terminal: bool
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


@dataclass
class _Source:
    """Reads files for a scan: large ones part by part."""

    how: ReadOptions
    channel: Sequence[str] | None
    stream: str | None
    judge: Judge
    answer: Answer
    progress: ScanProgress
    lenient: Sequence[Path]
    unread: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Say of each file how it is understood, once."""
        self._say = Announcer()

    def parts(self, path: Path) -> Iterator[list[Recording]]:
        """The recordings of a file; none where a file of a folder cannot be read, which is said."""
        try:
            if path.stat().st_size > LARGE_BYTES and self.judge.takes_parts:
                yield from self._large(path)
            else:
                found = self._prepared(read_recordings(path, self.how, self._tell(count=False)), first=True)
                self.progress.expect(sum(map(len, found)))
                yield found
        except RecordingError as error:
            if path not in self.lenient:
                raise
            warn_in_one_line(f"left out: {error}")
            self.unread.append(path)

    def _large(self, path: Path) -> Iterator[list[Recording]]:
        first = True
        for part in read_parts(path, options=self.how, tell=self._tell(count=True)):
            yield self._prepared(part, first=first)
            first = False

    def _tell(self, *, count: bool) -> Callable[[Reader], None]:
        def tell(reader: Reader) -> None:
            self._say(reader)
            self.answer.note(reader)
            if count and not reader.finished:
                self.progress.expect(reader.expected_rows)

        return tell

    def _prepared(self, recordings: Sequence[Recording], *, first: bool) -> list[Recording]:
        found = list(recordings)
        if self.stream is not None and len(found) == 1:
            found = [replace(found[0], stream=self.stream)]
        found = [one.only(self.channel) for one in found] if self.channel else sensors(found, quiet=not first)
        for recording in found if first else []:
            say_what_is_odd(recording)
        return found


class _Targets:
    """The files of scores, each open while the scans of its recording come."""

    def __init__(self, places: dict[Path, Path], form: str) -> None:
        self.places, self._form = places, form
        self._open = contextlib.ExitStack()
        self._path: Path | None = None
        self._writer: ScoreWriter | None = None
        self._written: list[Path] = []

    def __enter__(self) -> None:
        """Open nothing yet."""

    def __exit__(self, *raised: object) -> None:
        """Close the file that is open; leave it apart if something was raised."""
        self._open.__exit__(*raised)  # type: ignore[arg-type]

    def write(self, path: Path, scans: Sequence[Scan]) -> None:
        """Write scans of a recording behind those of its part before."""
        if not self.places:
            return
        if path != self._path:
            self._open.close()
            self._writer = self._open.enter_context(scores_to(self.places[path], self._form))
            self._path = path
            self._written.append(self.places[path])
        if self._writer is not None:
            self._writer.write(scans)

    def kept(self) -> list[Path]:
        """What is there after an interruption: whole files, and the part of one."""
        return [place for target in self._written for place in (target, part_of(target)) if place.exists()]


def _places(
    paths: Sequence[Path], files: Sequence[Path], out: Path, train_on: Sequence[Path], form: str
) -> dict[Path, Path]:
    """Where the scores of each file go, before anything is scanned: no two to one place, and none over a recording."""
    one = len(files) == 1 and files[0].is_file()
    targets = [out if one else out / below(path, files).with_name(f"{stem(path)}.{form}") for path in paths]
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
    return dict(zip(paths, targets, strict=True))
