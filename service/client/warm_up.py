"""Have a running service take in a recording as a stream's past."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock
from typing import Any, Final
from urllib.parse import quote

import httpx2
import numpy as np

from gatewatch.models.errors import GatewatchError
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.recordings.times import time_us
from gatewatch.service.client.remote import MOST_SAID, connected, exchange, refused
from gatewatch.service.client.replay import GIVE_UP_S, Replayed, next_seq

ROWS: Final = 2000
"""Rows of a request: the service takes about a second for them, and the progress moves."""

TOO_LARGE, AGAIN = 413, (408, 429, 503)
PAUSE_S: Final = 1.0

TOGETHER: Final = 8
"""Streams that are sent at a time: the service steps them together."""

WORDS: Final = ("taken", "replayed", "late", "conflict", "rejected")


def warm_up_with(
    recordings: Sequence[Recording],
    url: str,
    batch: int,
    start_seq: int | None,
    on_rows: Callable[[int], None],
) -> Replayed:
    """Send every row of recordings as readings of the past of their streams; rows that a stream has are not sent.

    Rows are known by their times, or by `seq` where their stream numbers its readings, or `start_seq` is given.

    Args:
        batch: rows a request; fewer where the service takes fewer.
        start_seq: number of each stream's first row.
        on_rows: is told how many more rows are done.

    Raises:
        GatewatchError: the service does not answer for GIVE_UP_S, or refuses a whole request.
    """
    found, lock, stop = Replayed(), Lock(), Event()

    def count(
        recording: Recording, words: Mapping[str, int], first_refused: str, unknown: Sequence[str], rows: int
    ) -> None:
        with lock:
            found.unknown.update(unknown)
            found.counts.setdefault(recording.stream, Counter()).update(words)
            found.refused += words.get("conflict", 0) + words.get("rejected", 0)
            found.first = found.first or first_refused
            on_rows(rows)

    def send(recording: Recording) -> None:
        with connected(url) as client:
            first, at = _place(client, recording, start_seq)
            count(recording, {"there already": at}, "", (), at)
            most = batch
            while at < len(recording) and not stop.is_set():
                rows = range(at, min(at + most, len(recording)))
                answer = _send(client, recording, rows, first)
                if answer is None and most == 1:
                    raise GatewatchError(f"{url}: a single reading of {recording.stream} is too large for it")
                if answer is None:
                    most = max(1, most // 2)
                    continue
                refused = answer["first_refused"]
                said = f"{recording.stream}, from row {rows.start} on: {refused}" if refused else ""
                count(recording, {word: answer[word] for word in WORDS}, said, answer.get("unknown", ()), len(rows))
                at = rows.stop

    of_stream: dict[str, list[Recording]] = {}
    for recording in recordings:
        of_stream.setdefault(recording.stream, []).append(recording)

    def send_all(parts: Sequence[Recording]) -> None:
        for part in parts:
            send(part)

    with ThreadPoolExecutor(TOGETHER) as pool:
        try:
            for done in [pool.submit(send_all, parts) for parts in of_stream.values()]:
                done.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return found


def _place(client: httpx2.Client, recording: Recording, start_seq: int | None) -> tuple[int | None, int]:
    """The number of a recording's first row, None where its rows have none; and the first row to be sent."""
    path = f"/v1/streams/{quote(recording.stream, safe='')}"
    status, content = exchange(client, "GET", path)
    if status == 404:
        return start_seq, 0
    if status != 200:
        raise refused(client, status, content[:MOST_SAID].decode(errors="replace"))
    known: dict[str, Any] = json.loads(content)
    if known["last_seq"] is not None:
        first = next_seq(client, recording) if start_seq is None else start_seq
        return first, min(len(recording), max(0, known["last_seq"] + 1 - first))
    if start_seq is not None or known["last_timestamp"] is None:
        return start_seq, 0
    last_ms = time_us(known["last_timestamp"], path) // 1000
    later = np.flatnonzero(recording.timestamps_ms > last_ms)
    return None, int(later[0]) if len(later) else len(recording)


def _send(client: httpx2.Client, recording: Recording, rows: range, first: int | None) -> dict[str, Any] | None:
    """What became of some rows; None where they are too many for one request."""
    path = f"/v1/streams/{quote(recording.stream, safe='')}/warm-up"
    body = "\n".join(json.dumps(_reading(recording, row, first)) for row in rows).encode()
    headers, deadline = {"content-type": "application/x-ndjson"}, time.monotonic() + GIVE_UP_S
    while True:
        try:
            status, content = exchange(client, "POST", path, content=body, headers=headers)
        except httpx2.HTTPError as error:
            if time.monotonic() > deadline:
                raise GatewatchError(f"{client.base_url} does not answer: {error}") from error
        else:
            if status == 200:
                taken: dict[str, Any] = json.loads(content)
                return taken
            if status == TOO_LARGE:
                return None
            if status not in AGAIN or time.monotonic() > deadline:
                raise refused(client, status, content[:MOST_SAID].decode(errors="replace"))
        time.sleep(PAUSE_S)


def _reading(recording: Recording, row: int, first: int | None) -> dict[str, Any]:
    values = recording.values[row].tolist()
    named = zip(recording.channels, values, strict=True)
    reading: dict[str, Any] = {
        "timestamp": int(recording.timestamps_ms[row]) / 1000,
        "values": {channel: value if np.isfinite(value) else None for channel, value in named},
    }
    return reading if first is None else {**reading, "seq": first + row}
