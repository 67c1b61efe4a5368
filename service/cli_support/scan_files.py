"""The files of a scan: recordings read for it, and scores written beside each other; and pieces of it for workers."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from gatewatch.models.artefact.files import load_artefact, model_folder
from gatewatch.models.errors import GatewatchError, RecordingError
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.reading import Reader
from gatewatch.models.recordings.recording import Recording, read_parts, read_recordings, stem
from gatewatch.models.scan import Scan
from gatewatch.models.scores import ScoreWriter, part_of, scores_to
from gatewatch.service.cli_support.answers import Answer
from gatewatch.service.cli_support.fleets import Workforce
from gatewatch.service.cli_support.oddities import say_what_is_odd
from gatewatch.service.cli_support.progress import ScanProgress, items_progress
from gatewatch.service.cli_support.reading import Announcer
from gatewatch.service.cli_support.scanning import Judge, below
from gatewatch.service.cli_support.terminal import sensors, warn, warn_in_one_line

LARGE_BYTES = 2**24
"""A file of more is scanned part by part, as it is read: a row of 4 channels takes 520 bytes while it is scanned."""

JOURNAL: Final = ".gatewatch-scan"
"""In the folder of the scores: which files were scanned by workers, a line each."""


@dataclass
class ScanSource:
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


class Targets:
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


def places(
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


@dataclass(frozen=True)
class Piece:
    """Files that one worker scans, in their order; what stands in it is as in `gatewatch scan`.

    Attributes:
        scored: where the scores of each file go; none are written of a file that is not in it.
    """

    paths: Sequence[Path]
    files: Sequence[Path]
    scored: Mapping[Path, Path]
    form: str
    how: ReadOptions
    channel: Sequence[str] | None
    judge: Judge


@dataclass(frozen=True)
class Scanned:
    """What came of a piece: the answer, what could not be read, and what is to be said on standard error."""

    answer: Answer
    unread: Sequence[Path]
    said: str


def scan_piece(piece: Piece) -> Scanned:
    """Scan the files of a piece as one process would, and write their scores. Raises GatewatchError."""
    answer, said = Answer(pictured=False), io.StringIO()
    with contextlib.redirect_stderr(said):
        source = ScanSource(
            piece.how, piece.channel, None, piece.judge, answer, ScanProgress(None), lenient=_found(piece)
        )
        targets = Targets(dict(piece.scored), piece.form)
        with targets:
            for path, scans in piece.judge.scans(piece.paths, piece.files, source.parts):
                targets.write(path, scans)
                answer.take(path, scans)
    return Scanned(answer, source.unread, said.getvalue())


def _found(piece: Piece) -> list[Path]:
    """The files that were found in a folder, of which one that cannot be read is left out."""
    return [path for path in piece.paths if path not in piece.files]


class Journal:
    """Which files were scanned before, as they are and with what judges now; see JOURNAL."""

    def __init__(self, out: Path | None, piece: Piece) -> None:
        """Read what is there; without a folder of scores nothing is kept."""
        self._path = None if out is None else out / JOURNAL
        self._scan = _fingerprint(piece)
        self._known: dict[str, dict[str, Any]] = {}
        if self._path is not None and self._path.exists():
            for line in self._path.read_text().splitlines():
                with contextlib.suppress(ValueError, KeyError):  # the last line of one that was killed
                    entry = json.loads(line)
                    self._known[entry["file"]] = entry

    def streams(self, path: Path, target: Path | None) -> list[str] | None:
        """The streams of a file that need not be scanned again; None where it must be."""
        entry = self._known.get(str(path.resolve()))
        if entry is None or target is None or not target.exists():
            return None
        done = entry["scan"] == self._scan and entry["is"] == _is(path)
        return list(entry["streams"]) if done else None

    def together(self, path: Path) -> list[str]:
        """The files that a file was scanned with, itself among them."""
        return list(self._known[str(path.resolve())]["together"])

    def add(self, path: Path, streams: Sequence[str], together: Sequence[Path]) -> None:
        """Take down that a file was scanned, with those before and after it. Raises GatewatchError."""
        if self._path is None:
            return
        entry = {"file": str(path.resolve()), "is": _is(path), "scan": self._scan, "streams": list(streams)}
        entry["together"] = [str(one.resolve()) for one in together]
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise GatewatchError(f"{self._path}: cannot be written: {error.strerror}") from error


def _is(path: Path) -> list[int]:
    """Size and time of change of a file."""
    known = path.stat()
    return [known.st_size, known.st_mtime_ns]


def _fingerprint(piece: Piece) -> str:
    """What scores depend on beside their file."""
    judge = piece.judge
    trained_on = [] if judge.train_on is None else sorted(p for p in [judge.train_on, *judge.train_on.rglob("*")])
    told = [
        version("gatewatch"), load_artefact(model_folder(judge.model or "general")).digest.hex(), piece.form,
        asdict(piece.how), list(piece.channel or []), asdict(judge), [(p, _is(p)) for p in trained_on],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(told, default=str, sort_keys=True).encode()).hexdigest()


def scan_by_workers(whole: Piece, out: Path | None, workforce: Workforce) -> tuple[Answer, list[Path], list[Path]]:
    """Scan each file for itself; those that have a stream in common are scanned again together, in their order.

    Returns:
        What was found, the files that could not be scanned, and those that were scanned before.

    A file that cannot be scanned stops no other.
    """
    journal = Journal(out, whole)
    streams: dict[Path, list[str]] = {}
    for path in whole.paths:
        known = journal.streams(path, whole.scored.get(path))
        if known is not None:
            streams[path] = known
    before = list(streams)
    pieces = [_piece(whole, [path]) for path in whole.paths if path not in streams]
    found: dict[Path, Scanned] = {}
    said: dict[str, None] = {}
    lost: list[Path] = []

    def scan(pieces: Sequence[Piece]) -> None:
        with items_progress(len(pieces), "files") as progress:
            for outcome in workforce.does(scan_piece, pieces, len(pieces)):
                progress.count()
                if outcome.result is None:
                    warn_in_one_line(f"left out: {', '.join(map(str, outcome.item.paths))}: {outcome.error}")
                    lost.extend(outcome.item.paths)
                    continue
                for line in outcome.result.said.splitlines():
                    if line not in said:
                        said[line] = None
                        warn(line)
                together = outcome.item.paths
                found[together[0]] = outcome.result
                if len(together) == 1:
                    streams[together[0]] = outcome.result.answer.streams
                for path in together:
                    if path not in outcome.result.unread:
                        journal.add(path, streams[path], together)

    scan(pieces)
    together = _with_streams_in_common(whole.paths, streams) if whole.judge.carries else []
    again = [
        paths
        for paths in together
        if any(path in found or journal.together(path) != [str(one.resolve()) for one in paths] for path in paths)
    ]
    for path in (path for paths in again for path in paths):
        found.pop(path, None)
    scan([_piece(whole, paths) for paths in again])
    answer = Answer(pictured=False)
    for path in whole.paths:
        if path in found:
            answer.join(found[path].answer)
    redone = {path for paths in again for path in paths}
    unread = [*lost, *(path for one in found.values() for path in one.unread)]
    return answer, unread, [path for path in before if path not in redone]


def _piece(whole: Piece, paths: Sequence[Path]) -> Piece:
    return replace(whole, paths=paths, scored={path: whole.scored[path] for path in paths if path in whole.scored})


def _with_streams_in_common(paths: Sequence[Path], streams: Mapping[Path, Sequence[str]]) -> list[list[Path]]:
    """Groups of several files, each in their order, that have a stream in common with another of the group."""
    group: dict[Path, list[Path]] = {}
    owner: dict[str, Path] = {}
    for path in paths:
        group[path] = [path]
        for stream in streams.get(path, ()):
            other = group[owner.setdefault(stream, path)]
            if other is not group[path]:
                other += group[path]
                for one in group[path]:
                    group[one] = other
    order = {path: at for at, path in enumerate(paths)}
    distinct = {id(one): one for one in group.values() if len(one) > 1}
    return [sorted(one, key=order.__getitem__) for one in distinct.values()]
