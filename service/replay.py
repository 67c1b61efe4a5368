"""Post a recording to a running service, as its sender would have."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from rich.console import Console
from rich.progress import track

from models.errors import GatewatchError
from models.recordings import Recording


def replay_recording(
    recording: Recording, url: str, stream: str, out: Path | None, batch: int, start_seq: int
) -> Counter[str]:
    """Post every row as a reading numbered by `seq`; count the statuses that came back.

    Args:
        out: a CSV of timestamp, score and status in the order of the rows, or None.

    Raises:
        GatewatchError: the service does not answer, or refuses a whole request.
    """
    results: list[dict[str, Any]] = []
    with httpx2.Client(base_url=url, timeout=60) as client:
        starts = range(0, len(recording), batch)
        console = Console(stderr=True)
        for start in track(
            starts, f"posting {stream}", console=console, transient=True, disable=not console.is_terminal
        ):
            readings = [_reading(recording, row, start_seq) for row in range(start, min(start + batch, len(recording)))]
            try:
                reply = client.post(f"/v1/streams/{stream}/readings", json=readings)
            except httpx2.HTTPError as error:
                raise GatewatchError(f"{url} does not answer: {error}") from error
            if reply.status_code != 200:
                raise GatewatchError(f"{url} answered {reply.status_code}: {reply.text[:300]}")
            results += reply.json()
    if out is not None:
        with out.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("timestamp", "score", "status"))
            rows.writerows(
                (r["timestamp"], "" if r["score"] is None else repr(r["score"]), r["status"]) for r in results
            )
    return Counter("replayed" if result["replayed"] else result["status"] for result in results)


def _reading(recording: Recording, row: int, start_seq: int) -> dict[str, Any]:
    values = [None if np.isnan(value) else float(value) for value in recording.values[row]]
    return {
        "seq": start_seq + row,
        "timestamp": int(recording.timestamps_ms[row]) / 1000,
        "values": dict(zip(recording.channels, values, strict=True)),
    }
