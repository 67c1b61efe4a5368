"""Recordings from the range API of a Prometheus server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import httpx2
import numpy as np

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.recording import MOST_IN_MEMORY, Recording
from gatewatch.models.recordings.values import LARGEST
from gatewatch.service.client.asking import answer, check_channels, client_of, understood, unix_ms

POINTS = 10_000
"""Asked for at once; a Prometheus server gives at most 11,000 a series."""

NAME = "__name__"

Series = dict[int, float]
"""Unix milliseconds to value."""


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
    begin, stop = unix_ms(start) / 1000, unix_ms(end) / 1000
    if not (step_s > 0 and begin < stop):
        raise RecordingError(
            f"--start {start}, --end {end}, --step {step_s:g}: expected a start before the end, a step > 0"
        )
    if (stop - begin) / step_s > MOST_IN_MEMORY:
        raise RecordingError(f"--step {step_s:g}: {(stop - begin) / step_s:.3g} readings; at most {MOST_IN_MEMORY}")
    tables: dict[str, dict[str, Series]] = {}
    owners: dict[tuple[str, str], Mapping[str, str]] = {}
    with client_of(url, show_key=False) as client:
        for query, labels, series in _series(client, queries, begin, stop, step_s):
            stream, channel = str(labels.get(stream_label, "all")), str(labels.get(NAME, query))
            if owners.setdefault((stream, channel), labels) != labels:
                raise RecordingError(
                    f"{url}: two series are channel {channel} of stream {stream}: {owners[stream, channel]} and "
                    f"{labels}; name a --stream-label that tells them apart, or a query that sums them up"
                )
            points = tables.setdefault(stream, {}).setdefault(channel, {})
            points |= series
        check_channels(client, list({channel: None for table in tables.values() for channel in table}))
    return _recordings(tables, f"{url}: {', '.join(queries)} gave no value from {start} to {end}")


def _series(
    client: httpx2.Client, queries: Sequence[str], begin: float, stop: float, step_s: float
) -> Iterator[tuple[str, Mapping[str, str], Series]]:
    """Each query's series with their labels, for one stretch of time after the other."""
    for query in queries:
        first = begin
        while first <= stop:
            last = min(stop, first + (POINTS - 1) * step_s)
            asked = {"query": query, "start": f"{first:.3f}", "end": f"{last:.3f}", "step": f"{step_s:g}"}
            told = answer(client, "/api/v1/query_range", asked)
            with understood(client, f"the query {query}"):
                found = [one for one in told["data"]["result"] if "values" in one]  # not histograms
                read = [
                    (dict(one["metric"]), {round(float(at) * 1000): float(value) for at, value in one["values"]})
                    for one in found
                ]
            yield from ((query, *one) for one in read)
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
            found.append(Recording(stream, channels, np.array(times, np.int64), np.array(rows)))
    if not found:
        raise RecordingError(nothing)
    return found
