"""The history that a running service keeps, as recordings, with what was judged and said of it.

Of an incident what came before its alert from its onset on, its anomalous readings and the few between them are wrong;
of one that is open, all up to the end of the history. Long calm within an incident is as good as the rest, and so is
all of one that somebody labelled `false_alarm`, and what that label made quiet since. `true` is a fault; `expected` is
unusual and no fault, so that nobody need find it and nothing shall learn it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote

import httpx2
import numpy as np

from gatewatch.models.detectors.detector import ANOMALOUS, STATUSES
from gatewatch.models.detectors.incidents import calm_step
from gatewatch.models.errors import RecordingError
from gatewatch.models.evaluation.evaluate import alarms_filled
from gatewatch.models.evaluation.gate import interval_s
from gatewatch.models.evaluation.vus import runs
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.recordings.review import Mask, Reviewed
from gatewatch.models.recordings.values import LARGEST
from gatewatch.service.client.asking import NothingThere, answer, check_channels, client_of, understood, unix_ms
from gatewatch.service.doors.door import STREAM_NAME
from gatewatch.service.incidents.rules import GATES, LABEL

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
        judged = [_is_judged(reading["result"]) for reading in kept]
        channels = tuple(dict.fromkeys(channel for reading in kept for channel in reading["values"]))
        rows = [[_number(reading["values"].get(channel)) for channel in channels] for reading in kept]
    check_channels(client, channels)
    return Recording(stream, channels, np.array(times, np.int64), np.array(rows)), np.array(judged)


def _is_judged(result: Mapping[str, Any]) -> bool:
    """Whether a reading was anomalous, and is not the like of a false alarm; see policies/quiet.py."""
    return result["status"] == STATUSES[ANOMALOUS] and result.get("gate") != GATES[LABEL]


def _number(value: object) -> float:
    """A value of a reading; NaN for null and for what is too large. Raises TypeError for anything else."""
    if value is None:
        return np.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r:.40} is no value")
    return float(value) if abs(value) <= LARGEST else np.nan


def _reviewed(recording: Recording, anomalous: Mask, incidents: Incidents) -> Reviewed:
    """A history with what its incidents, and what people said of them, make of it."""
    times, seconds = recording.timestamps_ms, interval_s(recording)
    close = alarms_filled(anomalous, calm_step(seconds) if seconds else 1)
    judged, labelled, faults = close.copy(), np.zeros(len(times), bool), np.zeros(len(times), bool)
    for one in incidents.get(recording.stream, ()):
        inside = (times >= one["onset"]) & (times <= one["to"])
        wrong = inside & (close | (times <= one["start"]) | (times > one["last"]))
        if not (wrong & (times >= one["start"])).any():
            wrong = inside  # another model has scored these readings since
        if one["label"] == FALSE_ALARM:
            judged &= ~inside
        elif one["label"] in (FAULT, UNUSUAL):
            labelled |= wrong
            faults |= wrong & (one["label"] == FAULT)
        else:
            judged |= wrong
    return Reviewed(recording, judged, labelled, runs(faults))


def _incidents(client: httpx2.Client, streams: Collection[str]) -> Incidents:
    """The incidents of streams that are kept: from when to when, in Unix milliseconds, and their labels."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    only = {"stream": next(iter(streams))} if len(streams) == 1 else {}
    for one in _pages(client, "incidents", only):
        with understood(client, "its incidents"):
            entry = {name: unix_ms(str(one[name])) for name in ("onset", "start", "last")} | {"label": one["label"]}
            entry["to"] = np.iinfo(np.int64).max if one["end"] is None else entry["last"]
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
