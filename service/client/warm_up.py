"""Have a running service take in a recording as a stream's past."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
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
    found = Replayed()
    with connected(url) as client:
        for recording in recordings:
            first, at = _place(client, recording, start_seq)
            on_rows(at)
            counts = found.counts.setdefault(recording.stream, Counter())
            counts["there already"] += at
            while at < len(recording):
                rows = range(at, min(at + batch, len(recording)))
                answer = _send(client, recording, rows, first)
                if answer is None:
                    if batch == 1:
                        raise GatewatchError(f"{url}: a single reading of {recording.stream} is too large for it")
                    batch = max(1, batch // 2)
                    continue
                counts.update({word: answer[word] for word in ("taken", "replayed", "late", "conflict", "rejected")})
                found.refused += answer["conflict"] + answer["rejected"]
                if answer["first_refused"] and not found.first:
                    found.first = (
                        f"{recording.stream}, in rows {rows.start} to {rows.stop - 1}: {answer['first_refused']}"
                    )
                at = rows.stop
                on_rows(len(rows))
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
