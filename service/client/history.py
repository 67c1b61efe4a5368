"""The history that a running service keeps, as recordings, with what was judged and said of it.

An incident reaches from its onset to its last anomalous reading; one that is open, to the end of the history. What lies
in one that somebody labelled `false_alarm` is as good as the rest; `true` is a fault; `expected` is unusual and no
fault, so that nobody need find it and nothing shall learn it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote

import httpx2
import numpy as np

from gatewatch.models.detectors.detector import ANOMALOUS, STATUSES
from gatewatch.models.errors import RecordingError
from gatewatch.models.evaluation.vus import runs
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.recordings.review import Mask, Reviewed
from gatewatch.models.recordings.values import LARGEST
from gatewatch.service.client.asking import NothingThere, answer, check_channels, client_of, understood, unix_ms
from gatewatch.service.doors.door import STREAM_NAME

PATTERN_SIGNS: Final = "*?"
"""No name of a stream has one."""

PAGE: Final = {"streams": "1000", "incidents": "500"}

FAULT, UNUSUAL, FALSE_ALARM = "true", "expected", "false_alarm"

Incidents = Mapping[str, Sequence[Mapping[str, Any]]]
"""By stream."""


def reviewed_histories(url: str, streams: Sequence[str] = (), digests: Collection[str] = ()) -> list[Reviewed]:
    """The readings that a running service keeps of streams: the last 128 of each, or as it is set.

    Args:
        streams: names or patterns with * and ?; all streams if there is none.
        digests: of these, only streams that one of these models scored last; any model if there is none.

    Raises:
        RecordingError: the service does not answer, does not know a stream, or has none that fits.
    """
    with client_of(url) as client:
        named = [name for name in streams if not set(PATTERN_SIGNS) & set(name)] if not digests else []
        patterns = [name for name in streams if name not in named] if streams else [""]
        listed = [name for pattern in patterns for name in _listed(client, pattern, digests)]
        histories = [_kept(client, name) for name in named]
        for name in dict.fromkeys(listed):
            with suppress(NothingThere):  # it has settings and no reading yet, or was forgotten in this moment
                histories.append(_kept(client, name))
        if not histories:
            fitting = f" that fits {', '.join(streams)}" if streams else " that the model scored" if digests else ""
            raise RecordingError(f"{url}: the service has no reading of any stream{fitting} yet")
        incidents = _incidents(client, {recording.stream for recording, _ in histories})
    return [_reviewed(recording, judged, incidents) for recording, judged in histories]


def _kept(client: httpx2.Client, stream: str) -> tuple[Recording, Mask]:
    """The history of one stream, in the order in which its readings were applied, and which were judged anomalous."""
    kept = answer(client, f"/v1/streams/{quote(stream, safe='')}/history")
    with understood(client, f"the history of {stream}"):
        if not kept:
            raise NothingThere(f"{client.base_url}: it keeps no reading of {stream}")
        times = [unix_ms(str(reading["result"]["timestamp"])) for reading in kept]
        judged = [reading["result"]["status"] == STATUSES[ANOMALOUS] for reading in kept]
        channels = tuple(dict.fromkeys(channel for reading in kept for channel in reading["values"]))
        rows = [[_number(reading["values"].get(channel)) for channel in channels] for reading in kept]
    check_channels(client, channels)
    return Recording(stream, channels, np.array(times, np.int64), np.array(rows)), np.array(judged)


def _number(value: object) -> float:
    """A value of a reading; NaN for null and for what is too large. Raises TypeError for anything else."""
    if value is None:
        return np.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r:.40} is no value")
    return float(value) if abs(value) <= LARGEST else np.nan


def _reviewed(recording: Recording, judged: Mask, incidents: Incidents) -> Reviewed:
    """A history with what its incidents, and what people said of them, make of it."""
    times = recording.timestamps_ms
    judged, labelled, faults = judged.copy(), np.zeros(len(times), bool), np.zeros(len(times), bool)
    for one in incidents.get(recording.stream, ()):
        inside = (times >= one["from"]) & (times <= one["to"])
        if one["label"] == FALSE_ALARM:
            judged[inside] = False
        elif one["label"] in (FAULT, UNUSUAL):
            labelled |= inside
            faults |= inside & (one["label"] == FAULT)
        else:
            judged |= inside
    return Reviewed(recording, judged, labelled, runs(faults))


def _incidents(client: httpx2.Client, streams: Collection[str]) -> Incidents:
    """The incidents of streams that are kept: from when to when, in Unix milliseconds, and their labels."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    only = {"stream": next(iter(streams))} if len(streams) == 1 else {}
    for one in _pages(client, "incidents", only):
        with understood(client, "its incidents"):
            ended = one["end"] is not None
            to = unix_ms(str(one["last"])) if ended else np.iinfo(np.int64).max
            entry = {"from": unix_ms(str(one["onset"])), "to": to, "label": one["label"]}
            if one["stream"] in streams:
                found.setdefault(one["stream"], []).append(entry)
    return found


def _listed(client: httpx2.Client, pattern: str, digests: Collection[str]) -> list[str]:
    """The names of streams of a service, in alphabetical order."""
    parameters = {"match": pattern} if pattern else {}
    if not digests:
        names = [str(name) for name in _pages(client, "streams", parameters)]
    else:
        with understood(client, "the list of its streams"):
            known = _pages(client, "streams", {**parameters, "details": "true"})
            names = [str(one["stream"]) for one in known if one is not None and one["model"] in digests]
    with understood(client, "the list of its streams"):
        if not all(map(STREAM_NAME.fullmatch, names)):
            raise ValueError(f"{names!r:.80} are no names of streams")
    return names


def _pages(client: httpx2.Client, what: str, parameters: Mapping[str, str]) -> Iterator[Any]:
    """What a service lists, page by page."""
    after, seen = "", {""}
    while True:
        asked = {"limit": PAGE[what], **parameters, **({"after": after} if after else {})}
        page = answer(client, f"/v1/{what}", asked)
        with understood(client, f"the list of its {what}"):
            new, next_after = list(page[what]), page["next"]
            if next_after is not None and next_after in seen:
                raise ValueError(f"after {after!r:.80} comes {next_after!r:.80}")
        yield from new
        if next_after is None:
            return
        after = str(next_after)
        seen.add(after)
