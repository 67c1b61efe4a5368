"""Recordings from where readings already are: a running service's history, and a Prometheus server's range API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx2
import numpy as np

from models.cells import LARGEST
from models.errors import RecordingError
from models.recordings import Recording

POINTS = 10_000
"""Asked for at once; a Prometheus server gives at most 11,000 a series."""

NAME = "__name__"

Series = dict[int, float]
"""Unix milliseconds to value."""


class _NothingThere(RecordingError):
    """The server answered 404."""


def history_recordings(url: str, streams: Sequence[str] = ()) -> list[Recording]:
    """The readings that a running service keeps of streams, of all if none is named: the last 128, or as it is set.

    Raises:
        RecordingError: the service does not answer or does not know a stream.
    """
    with _client(url) as client:
        found = [_kept(client, name) for name in streams]
        for name in [] if streams else _all(client):
            with suppress(_NothingThere):  # it has settings and no reading yet, or was forgotten in this moment
                found.append(_kept(client, name))
    if not found:
        raise RecordingError(f"{url}: the service has no reading of any stream yet")
    return found


def _kept(client: httpx2.Client, stream: str) -> Recording:
    """The history of one stream, in the order in which its readings were applied."""
    kept = _ask(client, f"/v1/streams/{quote(stream, safe='')}/history")
    times = [_ms(reading["result"]["timestamp"]) for reading in kept]
    values = [list(reading["values"].values()) for reading in kept]
    return Recording(stream, tuple(kept[0]["values"]), np.array(times, np.int64), np.array(values, np.float32))


def prometheus_recordings(
    url: str, queries: Sequence[str], start: str, end: str, step_s: float, stream_label: str
) -> list[Recording]:
    """Series of a Prometheus server, sampled every `step_s` from `start` to `end`, as recordings.

    A stream is made of the series with the same value of `stream_label` (of those without it, `all`), a channel of each
    series' name, or the query where it has none. A time at which a stream has no value is no reading; NaN and infinity
    are missing values.

    Raises:
        RecordingError: the server does not answer or refuses, a time is not one, or two series are one channel of
            a stream.
    """
    begin, stop = _ms(start) / 1000, _ms(end) / 1000
    if not (step_s > 0 and begin < stop):
        raise RecordingError(
            f"--start {start}, --end {end}, --step {step_s:g}: expected a start before the end, a step > 0"
        )
    tables: dict[str, dict[str, Series]] = {}
    owners: dict[tuple[str, str], Mapping[str, str]] = {}
    with _client(url) as client:
        for query, series in _series(client, queries, begin, stop, step_s):
            labels = series["metric"]
            stream, channel = labels.get(stream_label, "all"), labels.get(NAME, query)
            if owners.setdefault((stream, channel), labels) != labels:
                raise RecordingError(
                    f"{url}: two series are channel {channel} of stream {stream}: {owners[stream, channel]} and "
                    f"{labels}; name a --stream-label that tells them apart, or a query that sums them up"
                )
            points = tables.setdefault(stream, {}).setdefault(channel, {})
            points |= {round(float(at) * 1000): float(value) for at, value in series["values"]}
    return _recordings(tables, f"{url}: {', '.join(queries)} gave no value from {start} to {end}")


def _series(
    client: httpx2.Client, queries: Sequence[str], begin: float, stop: float, step_s: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each query's series, for one stretch of time after the other."""
    for query in queries:
        first = begin
        while first <= stop:
            last = min(stop, first + (POINTS - 1) * step_s)
            asked = {"query": query, "start": f"{first:.3f}", "end": f"{last:.3f}", "step": f"{step_s:g}"}
            data = _ask(client, "/api/v1/query_range", asked)["data"]
            yield from ((query, series) for series in data["result"] if "values" in series)  # not histograms
            first = last + step_s


def _recordings(tables: Mapping[str, Mapping[str, Series]], nothing: str) -> list[Recording]:
    """Streams to recordings with the channels of all of them; a reading wherever there is a value."""
    channels = tuple(dict.fromkeys(channel for table in tables.values() for channel in table))
    found = []
    for stream, table in sorted(tables.items()):
        known = {
            channel: {at: value for at, value in series.items() if abs(value) <= LARGEST}
            for channel, series in table.items()
        }
        times = sorted({at for series in known.values() for at in series})
        rows = [[known.get(channel, {}).get(at, np.nan) for channel in channels] for at in times]
        if rows:
            found.append(Recording(stream, channels, np.array(times, np.int64), np.array(rows, np.float32)))
    if not found:
        raise RecordingError(nothing)
    return found


def _all(client: httpx2.Client) -> list[str]:
    """The names of all streams of a service."""
    names: list[str] = []
    page: dict[str, Any] = {"next": ""}
    while page["next"] is not None:
        page = _ask(client, "/v1/streams", {"after": page["next"]} if page["next"] else {})
        names += page["streams"]
    return names


def _ms(moment: str) -> int:
    """Unix milliseconds of RFC 3339 or Unix seconds."""
    try:
        return round(float(moment) * 1000)
    except (ValueError, OverflowError):
        pass
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        raise RecordingError(f"{moment!r} is not a time; expected RFC 3339 or Unix seconds") from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


@contextmanager
def _client(url: str) -> Iterator[httpx2.Client]:
    try:
        with httpx2.Client(base_url=url, timeout=60) as client:
            yield client
    except httpx2.InvalidURL as error:
        raise RecordingError(f"{url}: {error}; expected http://host:port") from error
    except httpx2.HTTPError as error:
        raise RecordingError(f"{url} does not answer: {error}") from error


def _ask(client: httpx2.Client, path: str, parameters: Mapping[str, str] | None = None) -> Any:
    reply = client.get(path, params=parameters)
    if reply.status_code != 200:
        kind = _NothingThere if reply.status_code == 404 else RecordingError
        raise kind(f"{client.base_url} answered {reply.status_code} to {path}: {reply.text[:300]}")
    try:
        return reply.json()
    except ValueError as error:
        raise RecordingError(f"{client.base_url} answered {path} with what is no JSON: {reply.text[:100]!r}") from error
