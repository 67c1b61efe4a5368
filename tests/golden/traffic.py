"""The requests of the golden file: drawn from a seed, with times of their own; every run sends the same bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from gatewatch.service.demo.station import CHANNELS, MINUTE_MS, RECORDINGS_START_MS, STREAMS, Fault, simulate

ROWS = 400
"""Readings of each of the six streams: 2,400 by each model, and those that are sent twice, late or wrong."""

WITHOUT_SEQ = ("pump-5", "pump-6")
REORDERING, HOLDING = "pump-3", "pump-4"
SILENT_ROW, SILENT_MINUTES = 220, 600
"""From this row on, the readings of one stream are later by so much."""

JSON = {"content-type": "application/json"}
LINES = {"content-type": "application/x-ndjson"}


@dataclass
class Request:
    """One request, and in a word what it is for."""

    what: str
    path: str
    body: bytes = b""
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))


Reading = dict[str, Any]


def requests() -> Iterator[Request]:
    """All of them in order."""
    rng = random.Random(12)
    waiting = _readings()
    kept: list[Reading] = []
    held: list[Reading] = []
    yield _settings(REORDERING, {"reorder_window_s": 1800.0})
    yield _settings(HOLDING, {"on_gap": "hold"})
    while any(waiting.values()):
        group = _next(rng, waiting)
        held += [reading for reading in group if reading["stream"] == HOLDING]
        if rng.random() < 0.06 and len(group) > 1:  # one stays behind, and comes late
            kept.append(group.pop(rng.randrange(len(group))))
        last = _posted(rng, "normal", group)
        yield last
        draw = rng.random()
        if draw < 0.08:
            yield Request("replayed", last.path, last.body, headers=last.headers)
        elif draw < 0.14:
            yield _posted(rng, "conflict", [_changed(rng, reading) for reading in group[:3]])
        elif draw < 0.22:
            yield _posted(rng, "rejected", [*group[:1], *(_harmed(rng, reading) for reading in group[:4])])
        elif draw < 0.25:
            yield rng.choice(_refused(group))
        if kept and rng.random() < 0.25:
            late = kept.pop(0)
            behind = [reading for reading in held if late["stream"] == HOLDING and reading["seq"] > late["seq"]]
            yield _posted(rng, "late", [late, *behind])  # which were rejected while it was missing
    for stream in STREAMS:
        yield Request("stream", f"/v1/streams/{stream}", method="GET")
        yield Request("history", f"/v1/streams/{stream}/history", method="GET")


def _readings() -> dict[str, list[Reading]]:
    """Each stream's readings in order: faults, missing values, a silence."""
    start = RECORDINGS_START_MS
    faults = [
        Fault("pump-1", "leak", ("pressure", "flow"), start + 250 * MINUTE_MS, start + 330 * MINUTE_MS),
        Fault("pump-2", "spike", ("pressure",), start + 300 * MINUTE_MS, start + 301 * MINUTE_MS, value=1.5),
        Fault("pump-3", "stuck sensor", ("flow",), start + 200 * MINUTE_MS, start + 300 * MINUTE_MS),
        Fault("pump-5", "drop-out", ("temperature",), start + 150 * MINUTE_MS, start + 250 * MINUTE_MS),
        Fault("pump-6", "drop-out", ("flow",), start + 260 * MINUTE_MS, start + 300 * MINUTE_MS, value=0.0),
    ]
    found: dict[str, list[Reading]] = {}
    for recording in simulate(start, ROWS, seed=3, faults=faults):
        rows = []
        for row in range(ROWS):
            silent = SILENT_MINUTES if recording.stream == "pump-2" and row >= SILENT_ROW else 0
            time_ms = int(recording.timestamps_ms[row]) + silent * MINUTE_MS
            values = zip(CHANNELS, recording.values[row].tolist(), strict=True)
            reading = {
                "stream": recording.stream,
                "timestamp": _iso(time_ms) if row % 3 else time_ms / 1000,
                "seq": row,
                "values": {name: None if np.isnan(value) else round(value, 4) for name, value in values},
            }
            if recording.stream in WITHOUT_SEQ:
                del reading["seq"]
            rows.append(reading)
        found[recording.stream] = rows
    return found


def _next(rng: random.Random, waiting: dict[str, list[Reading]]) -> list[Reading]:
    """The next readings of one stream, or of several by turns."""
    streams = [stream for stream, rows in waiting.items() if rows]
    chosen = rng.sample(streams, rng.randint(1, len(streams)))
    count = rng.choice((1, 1, 2, 5, 8))
    taken = [waiting[stream][:count] for stream in chosen]
    for stream in chosen:
        del waiting[stream][:count]
    return [rows[at] for at in range(count) for rows in taken if at < len(rows)]


def _posted(rng: random.Random, what: str, group: list[Reading]) -> Request:
    """Readings as an array, as lines or alone as an object, by either route."""
    path = "/v1/readings"
    if len({reading.get("stream") for reading in group}) == 1 and group[0].get("stream") and rng.random() < 0.6:
        path = f"/v1/streams/{group[0]['stream']}/readings"
        group = [{name: value for name, value in reading.items() if name != "stream"} for reading in group]
    if len(group) == 1 and rng.random() < 0.5:
        return Request(what, path, json.dumps(group[0]).encode())
    if rng.random() < 0.35:
        return Request(what, path, "\n".join(map(json.dumps, group)).encode(), headers=dict(LINES))
    return Request(what, path, json.dumps(group).encode())


def _changed(rng: random.Random, reading: Reading) -> Reading:
    """Another reading under the seq or time of one that was sent."""
    return reading | {"values": reading["values"] | {rng.choice(CHANNELS): 1.25}}


def _harmed(rng: random.Random, reading: Reading) -> Reading:
    """A reading that cannot be taken."""
    return rng.choice(
        (
            reading | {"values": {"presure": 1.0}},
            reading | {"values": reading["values"] | {"flow": "much"}},
            reading | {"timestamp": "yesterday"},
            reading | {"seq": -1},
            reading | {"stream": "a b"},
            reading | {"unit": "bar"},
            reading | {"values": 3.0},
            {name: value for name, value in reading.items() if name != "values"},
        )
    )


def _refused(group: list[Reading]) -> tuple[Request, ...]:
    """Requests that are refused as a whole."""
    body = json.dumps(group).encode()
    return (
        Request("empty", "/v1/readings"),
        Request("cut", "/v1/readings", body[: len(body) // 2]),
        Request("number", "/v1/readings", b"7"),
        Request("media", "/v1/readings", body, headers={"content-type": "text/csv"}),
        Request("method", "/v1/readings", method="DELETE"),
        Request("unknown", "/v1/streams/nobody", method="GET"),
    )


def _settings(stream: str, content: dict[str, Any]) -> Request:
    return Request("settings", f"/v1/streams/{stream}", json.dumps(content).encode(), method="PUT")


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
