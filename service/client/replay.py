"""Post a recording to a running service, as its sender would have."""

from __future__ import annotations

import contextlib
import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gatewatch.client import Client, ClientError, Reading, Result
from gatewatch.models.errors import GatewatchError
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.recordings.times import time_us
from gatewatch.models.text import as_cell, one_line
from gatewatch.service.client.remote import ask, connected, key

GIVE_UP_S = 120.0
"""A service that takes no reading for so long is given up."""


@dataclass
class Replayed:
    """What became of the readings posted.

    Attributes:
        counts: stream to how many readings came back with which status; `replayed` for those known before.
        refused: how many were rejected or in conflict.
        first: stream, seq and error of the first of them.
        unknown: channels that a warm-up was taken without, as the model of their stream does not know them.
    """

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    refused: int = 0
    first: str = ""
    unknown: set[str] = field(default_factory=set)

    def add(self, stream: str, results: Sequence[Result]) -> None:
        """Count the results of one request."""
        counts = self.counts.setdefault(stream, Counter())
        counts.update("replayed" if result.replayed else result.status for result in results)
        for result in results:
            if result.status in ("rejected", "conflict"):
                self.refused += 1
                self.first = self.first or f"{stream}, seq {result.seq}: {result.status}: {result.error}"


def replay_recordings(
    recordings: Sequence[Recording], url: str, out: Path | None, batch: int, start_seq: int | None
) -> Replayed:
    """Post every row of every recording as a reading of its stream, numbered by `seq`.

    Args:
        out: a CSV of timestamp, score and status in the order of the rows, with the stream before them if there are
            several recordings; written as the answers come. Or None.
        batch: readings a request. What fits into the service's history can be sent again when its answer was lost.
        start_seq: number of each stream's first row; None goes on where the stream stands, see `next_seq`.

    A request that is not answered is sent again, for as long as GIVE_UP_S.

    Raises:
        GatewatchError: the service does not answer, or refuses a whole request; `out` cannot be written.
    """
    found = Replayed()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        connected(url) as client,
        Client(url, key=key(), batch_readings=batch, numbered=False, on_result=lambda *_: None) as sender,
        _answers(out, len(recordings) > 1) as write,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        ask(client, "GET", "/livez")
        for recording in recordings:
            bar = progress.add_task(f"posting {one_line(recording.stream)}", total=len(recording))
            first = next_seq(client, recording) if start_seq is None else start_seq
            for start in range(0, len(recording), batch):
                rows = range(start, min(start + batch, len(recording)))
                results = _post(sender, recording, rows, first)
                found.add(recording.stream, results)
                write(recording.stream, results)
                progress.advance(bar, len(rows))
    return found


def next_seq(client: httpx2.Client, recording: Recording) -> int:
    """The number of a recording's first row where its stream goes on.

    A recording later than all the stream has goes on behind it: the next file of a stream. One that the stream has
    already, or its beginning, gets the numbers it had, so that what is sent again is answered again.

    Raises:
        GatewatchError: the stream goes on behind the recording's end; or its last reading lies within the recording's
            time, and is not of it.
    """
    path = f"/v1/streams/{quote(recording.stream, safe='')}"
    status, known = ask(client, "GET", path)
    if status == 404:
        return 0
    try:
        if status != 200:
            raise ValueError(known)
        last_seq = known["last_seq"]
        last_ms = time_us(known["last_timestamp"], path) // 1000 if last_seq is not None else 0
    except (LookupError, TypeError, ValueError) as error:
        raise GatewatchError(f"{client.base_url} answered {status} to {path}: {error!s:.300}") from error
    if last_seq is None:
        return 0
    times = recording.timestamps_ms
    if (times > last_ms).all():
        return int(last_seq) + 1
    at = np.flatnonzero(times == last_ms)
    if len(at) and last_seq >= at[-1]:
        return int(last_seq - at[-1])
    older = (times < last_ms).all()
    place = (
        "is later than all of this recording" if older else "lies within the time of this recording and is none of it"
    )
    raise GatewatchError(
        f"{recording.stream}: its last reading, number {last_seq} of {known['last_timestamp']}, {place}; name "
        "--start-seq, or another --stream"
    )


def _post(sender: Client, recording: Recording, rows: range, start_seq: int) -> list[Result]:
    try:
        return sender.post([_reading(recording, row, start_seq) for row in rows], GIVE_UP_S)
    except ClientError as error:
        with contextlib.suppress(ClientError):
            sender.close(0)  # what was not acknowledged is not sent later
        raise GatewatchError(str(error)) from error


@contextmanager
def _answers(out: Path | None, several: bool) -> Iterator[Callable[[str, Sequence[Result]], None]]:
    """A function that writes the results of one request of a stream to `out`, if it is given."""
    if out is None:
        yield lambda _stream, _results: None
        return
    try:
        with out.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow((*(("stream",) if several else ()), "timestamp", "score", "status"))

            def write(stream: str, results: Sequence[Result]) -> None:
                rows.writerows(
                    (
                        *((as_cell(stream),) if several else ()),
                        result.timestamp,
                        "" if result.score is None else repr(result.score),
                        result.status,
                    )
                    for result in results
                )

            yield write
    except OSError as error:
        raise GatewatchError(f"{out}: the answers cannot be written: {error.strerror}") from error


def _reading(recording: Recording, row: int, start_seq: int) -> Reading:
    values = dict(zip(recording.channels, recording.values[row].tolist(), strict=True))
    return Reading.of(recording.stream, values, int(recording.timestamps_ms[row]) / 1000, start_seq + row)
