"""Post a recording to a running service, as its sender would have."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import numpy as np
from rich.console import Console
from rich.progress import track

from models.errors import GatewatchError
from models.recordings import Recording
from models.text import as_cell


@dataclass
class Replayed:
    """What became of the readings posted.

    Attributes:
        counts: stream to how many readings came back with which status; `replayed` for those known before.
        refused: how many were rejected or in conflict.
        first: stream, seq and error of the first of them.
    """

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    refused: int = 0
    first: str = ""

    def add(self, stream: str, results: Sequence[Mapping[str, Any]]) -> None:
        """Count the results of one request."""
        counts = self.counts.setdefault(stream, Counter())
        counts.update("replayed" if result["replayed"] else result["status"] for result in results)
        for result in results:
            if result["status"] in ("rejected", "conflict"):
                self.refused += 1
                self.first = self.first or f"{stream}, seq {result['seq']}: {result['status']}: {result['error']}"


def replay_recordings(
    recordings: Sequence[Recording], url: str, out: Path | None, batch: int, start_seq: int
) -> Replayed:
    """Post every row of every recording as a reading of its stream, numbered by `seq`.

    Args:
        out: a CSV of timestamp, score and status in the order of the rows, with the stream before them if there are
            several recordings; written as the answers come. Or None.
        batch: readings a request. What fits into the service's history can be sent again when its answer was lost.

    Raises:
        GatewatchError: the service does not answer, or refuses a whole request; `out` cannot be written.
    """
    found = Replayed()
    console = Console(stderr=True)
    with _client(url) as client, _answers(out, len(recordings) > 1) as write:
        for recording in recordings:
            starts = range(0, len(recording), batch)
            described = f"posting {recording.stream}"
            for start in track(starts, described, console=console, transient=True, disable=not console.is_terminal):
                stop = min(start + batch, len(recording))
                results = _post(client, recording, range(start, stop), start_seq, url)
                found.add(recording.stream, results)
                write(recording.stream, results)
    return found


def _client(url: str) -> httpx2.Client:
    try:
        return httpx2.Client(base_url=url, timeout=60)
    except httpx2.InvalidURL as error:
        raise GatewatchError(f"--url {url}: {error}; expected http://host:port") from error


def _post(client: httpx2.Client, recording: Recording, rows: range, start_seq: int, url: str) -> list[dict[str, Any]]:
    readings = [_reading(recording, row, start_seq) for row in rows]
    try:
        reply = client.post(f"/v1/streams/{quote(recording.stream, safe='')}/readings", json=readings)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise GatewatchError(f"{url} does not answer: {error}") from error
    if reply.status_code != 200:
        raise GatewatchError(f"{url} answered {reply.status_code}: {reply.text[:300]}")
    results: list[dict[str, Any]] = reply.json()
    return results


@contextmanager
def _answers(out: Path | None, several: bool) -> Iterator[Callable[[str, Sequence[Mapping[str, Any]]], None]]:
    """A function that writes the results of one request of a stream to `out`, if it is given."""
    if out is None:
        yield lambda _stream, _results: None
        return
    try:
        with out.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow((*(("stream",) if several else ()), "timestamp", "score", "status"))

            def write(stream: str, results: Sequence[Mapping[str, Any]]) -> None:
                rows.writerows(
                    (
                        *((as_cell(stream),) if several else ()),
                        result["timestamp"],
                        "" if result["score"] is None else repr(result["score"]),
                        result["status"],
                    )
                    for result in results
                )

            yield write
    except OSError as error:
        raise GatewatchError(f"{out}: the answers cannot be written: {error.strerror}") from error


def _reading(recording: Recording, row: int, start_seq: int) -> dict[str, Any]:
    values = [None if np.isnan(value) else float(value) for value in recording.values[row]]
    return {
        "seq": start_seq + row,
        "timestamp": int(recording.timestamps_ms[row]) / 1000,
        "values": dict(zip(recording.channels, values, strict=True)),
    }
