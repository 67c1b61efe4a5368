"""Recordings or the history of a service, with what is known to be wrong in them; for retrain and promote."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from gatewatch.models.detectors.detector import ANOMALOUS, Scanner
from gatewatch.models.detectors.incidents import calm_step
from gatewatch.models.errors import EvaluationError, GatewatchError
from gatewatch.models.evaluation.against_champion import Reviews
from gatewatch.models.evaluation.evaluate import alarms_filled
from gatewatch.models.evaluation.gate import interval_s
from gatewatch.models.recordings.labels import Interval, Intervals, read_intervals, with_labels
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.recording import Recording, read_recordings, recording_files
from gatewatch.models.recordings.review import Mask, Reviewed
from gatewatch.models.scan import scan
from gatewatch.service.cli_support.reading import Announcer

FromService = Annotated[str | None, typer.Option(help="URL of a running service, whose history is read")]
Streams = Annotated[
    list[str] | None,
    typer.Option("--stream", help="with --from-service: a stream, or a pattern of names as pump-*; may be repeated"),
]
Labels = Annotated[
    Path | None,
    typer.Option(help="CSV of events, stream,start,end, both times inside; without it the files have a label column"),
]
LabelColumn = Annotated[
    str | None, typer.Option(help="column with 1 in events and else 0, no channel; `label` or `anomaly` if not given")
]


@dataclass(frozen=True)
class Given:
    """The options that say where readings are from."""

    files: Sequence[Path]
    service: str | None
    streams: Sequence[str]
    labels: Path | None
    label_column: str | None
    how: ReadOptions

    def __post_init__(self) -> None:
        """Refuse options that exclude each other. Raises GatewatchError."""
        if bool(self.files) == (self.service is not None):
            raise GatewatchError("expected one of: files, --from-service URL")
        if self.streams and self.service is None:
            raise GatewatchError("--stream is of --from-service; expected its URL beside it")
        if self.service is not None and (self.labels or self.label_column):
            raise GatewatchError("a service has its labels itself; --labels and --label-column are of files")

    def read(
        self, digests: Collection[str] = (), judge: Scanner | None = None, *, keep_judged: bool = False
    ) -> Reviews:
        """The readings, and what is wrong among them.

        Args:
            digests: of a service, only streams that one of these models scored last, where no stream is named.
            judge: of files, what it judges anomalous is left out.
            keep_judged: leave out only what was labelled.

        Raises:
            GatewatchError: there is nothing there, or it cannot be read.
        """
        if self.service is None:
            paths = recording_files(self.files)
            each, origin = self._of_files(paths, None if keep_judged else judge), ", ".join(map(str, self.files))
        else:
            from gatewatch.service.client.history import reviewed_histories

            each, origin = reviewed_histories(self.service, self.streams, () if self.streams else digests), self.service
            if keep_judged:
                each = [replace(one, judged=np.zeros(len(one.judged), bool)) for one in each]
        return Reviews(each, origin)

    def _of_files(self, paths: Sequence[Path], judge: Scanner | None) -> list[Reviewed]:
        from gatewatch.models.training.stored import TemporaryRows, store

        rows, say = TemporaryRows(), Announcer()
        intervals = None if self.labels is None else read_intervals(self.labels)
        met: set[Interval] = set()
        found = []
        for path in paths:
            recordings = read_recordings(path, self.how, say)
            here = None if intervals is None else _inside(intervals, recordings, met)
            for one in with_labels(recordings, self.label_column, here):
                recording, events = one.recording, one.events or []
                labelled = np.zeros(len(recording), bool)
                for first, last in events:
                    labelled[first : last + 1] = True
                judged = np.zeros(len(recording), bool) if judge is None else _judged(judge, recording)
                (stored,) = store([recording], rows)
                found.append(Reviewed(stored, judged, labelled, events))
        missed = [one for each in (intervals or {}).values() for one in each if one not in met]
        if missed:
            raise EvaluationError(f"{self.labels}, row {missed[0].row}: no reading of the files lies in this interval")
        return found


def _inside(intervals: Intervals, recordings: Sequence[Recording], met: set[Interval]) -> Intervals:
    """The intervals in which recordings of one file have readings."""
    here: dict[str, list[Interval]] = {}
    for recording in recordings:
        times = recording.times_us
        for one in intervals.get(recording.stream, ()):
            if ((times >= one.start_us) & (times <= one.end_us)).any():
                here.setdefault(recording.stream, []).append(one)
                met.add(one)
    return here


def _judged(judge: Scanner, recording: Recording) -> Mask:
    """(N,) the readings from the first to the last anomalous one of each incident."""
    seconds = interval_s(recording)
    return alarms_filled(scan(judge, recording).status == ANOMALOUS, calm_step(seconds) if seconds else 1)
