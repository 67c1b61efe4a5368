"""Recordings from where readings already are: a running service's history, and a Prometheus server's range API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx2
import numpy as np

from gatewatch.models.errors import GatewatchError, RecordingError
from gatewatch.models.recordings.recording import LONGEST_NAME, MOST_CHANNELS, MOST_IN_MEMORY, Recording
from gatewatch.models.recordings.values import LARGEST, LATEST_S
from gatewatch.service.client.remote import ask, connected
from gatewatch.service.doors.door import STREAM_NAME

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
    with _understood(client, f"the history of {stream}"):
        if not kept:
            raise _NothingThere(f"{client.base_url}: it keeps no reading of {stream}")
        times = [_ms(str(reading["result"]["timestamp"])) for reading in kept]
        channels = tuple(dict.fromkeys(channel for reading in kept for channel in reading["values"]))
        rows = [[_number(reading["values"].get(channel)) for channel in channels] for reading in kept]
    _check_channels(client, channels)
    return Recording(stream, channels, np.array(times, np.int64), np.array(rows))


def _number(value: object) -> float:
    """A value of a reading; NaN for null and for what is too large. Raises TypeError for anything else."""
    if value is None:
        return np.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r:.40} is no value")
    return float(value) if abs(value) <= LARGEST else np.nan


def _check_channels(client: httpx2.Client, channels: Sequence[str]) -> None:
    if len(channels) > MOST_CHANNELS or any(len(channel) > LONGEST_NAME for channel in channels):
        raise RecordingError(
            f"{client.base_url}: {len(channels)} channels, with names of up to {max(map(len, channels))} characters; "
            f"at most {MOST_CHANNELS} of at most {LONGEST_NAME} are read"
        )


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
    if (stop - begin) / step_s > MOST_IN_MEMORY:
        raise RecordingError(f"--step {step_s:g}: {(stop - begin) / step_s:.3g} readings; at most {MOST_IN_MEMORY}")
    tables: dict[str, dict[str, Series]] = {}
    owners: dict[tuple[str, str], Mapping[str, str]] = {}
    with _client(url, show_key=False) as client:
        for query, labels, series in _series(client, queries, begin, stop, step_s):
            stream, channel = str(labels.get(stream_label, "all")), str(labels.get(NAME, query))
            if owners.setdefault((stream, channel), labels) != labels:
                raise RecordingError(
                    f"{url}: two series are channel {channel} of stream {stream}: {owners[stream, channel]} and "
                    f"{labels}; name a --stream-label that tells them apart, or a query that sums them up"
                )
            points = tables.setdefault(stream, {}).setdefault(channel, {})
            points |= series
        _check_channels(client, list({channel: None for table in tables.values() for channel in table}))
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
            answer = _ask(client, "/api/v1/query_range", asked)
            with _understood(client, f"the query {query}"):
                found = [one for one in answer["data"]["result"] if "values" in one]  # not histograms
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


def _all(client: httpx2.Client) -> list[str]:
    """The names of all streams of a service, which lists them in alphabetical order, page by page."""
    names: list[str] = []
    after = ""
    while True:
        page = _ask(client, "/v1/streams", {"after": after} if after else {})
        with _understood(client, "the list of its streams"):
            new, next_after = [str(name) for name in page["streams"]], page["next"]
            if not all(map(STREAM_NAME.fullmatch, new)):
                raise ValueError(f"{new!r:.80} are no names of streams")
            names += new
            if next_after is None:
                return names
            if not new or not after < str(next_after):
                raise ValueError(f"after {after!r:.80} comes {next_after!r:.80}")
            after = str(next_after)


def _ms(moment: str) -> int:
    """Unix milliseconds of RFC 3339 or Unix seconds."""
    try:
        seconds = float(moment)
    except ValueError:
        try:
            at = datetime.fromisoformat(moment)
            seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            seconds = np.nan
    if not 0 <= seconds < LATEST_S:
        raise RecordingError(f"{moment!r:.80} is not a time after 1970; expected RFC 3339 or Unix seconds")
    return round(seconds * 1000)


@contextmanager
def _client(url: str, *, show_key: bool = True) -> Iterator[httpx2.Client]:
    try:
        with connected(url, show_key=show_key) as client:
            yield client
    except RecordingError:
        raise
    except GatewatchError as error:
        raise RecordingError(str(error)) from error


@contextmanager
def _understood(client: httpx2.Client, what: str) -> Iterator[None]:
    """Take an answer apart; RecordingError where it is of another form."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, RecordingError):
            raise
        raise RecordingError(
            f"{client.base_url} answered for {what} with what is none ({type(error).__name__}: {error!s:.200})"
        ) from error


def _ask(client: httpx2.Client, path: str, parameters: Mapping[str, str] | None = None) -> Any:
    status, answer = ask(client, "GET", path, parameters)
    if status != 200:
        kind = _NothingThere if status == 404 else RecordingError
        raise kind(f"{client.base_url} answered {status} to {path}: {answer}")
    return answer
