"""Silence: when a stream has sent nothing for so long that people are to be told. Pure.

Each stream is looked at now and then; nothing is done with a reading. A look compares how many readings the stream's
record has counted with what it had at the look before, and learns from that how often the stream sends. A stream that
goes on is looked at again when it would be silent if it had stopped right now, so once in its patience.

A stream's patience is the longest of: k times its cadence, GAP_MARGIN times the longest pause that it has made of
late, and LEAST_MS. Before a stream is called silent, the times of its kept readings are asked as well: one that is
polled irregularly has made long pauses before, see `patience_of`.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.clock import GAP_MARGIN, GAP_MEMORY
from gatewatch.service.core.records import SILENT, STREAM_PART
from gatewatch.service.incidents.incident import SILENT_REASON, Incident, RaisedAlert

LEAST_MS: Final = 60_000
"""No stream is called silent before: a sender that is restarted is back by then."""

LEAST_READINGS: Final = 32
"""Of a stream with fewer nobody knows how often it sends."""

LEAST_TIMES: Final = 3
"""So often must a stream have been found sending: one that sends what it has gathered, all at once, has shown its
pauses by then."""

LIVE_MS: Final = 86_400_000.0
"""A stream whose readings are further behind is a recording that somebody sends, and ends."""

SEEK_MS: Final = 86_400_000
"""A stream that is not judged yet, or is silent, is looked at less and less often, but once in this time."""

LEARNING: Final = 0.3
"""How much of what a look shows goes into what is known of a stream's cadence and delay."""

_WATCH: Final = struct.Struct("<QqqqfffBB")


class Watch(NamedTuple):
    """What is known of a stream since the last look.

    Attributes:
        readings: how many it had sent.
        heard_ms: when it sent the last of them, about.
        found_ms: the look that found them.
        looked_ms: the last look.
        cadence_ms: the usual time between two readings; 0 while it is not known.
        delay_ms: how far the time of the last reading is behind when it is found; below 0 where a clock is ahead.
        pause_ms: the longest time without a reading, of late, that is beyond k cadences.
        times: looks that found new readings, at most 255.
        silent: its silence was found, and has an incident.
    """

    readings: int
    heard_ms: int
    found_ms: int
    looked_ms: int
    cadence_ms: float = 0.0
    delay_ms: float = 0.0
    pause_ms: float = 0.0
    times: int = 0
    silent: bool = False

    def encode(self) -> bytes:
        """As it is kept."""
        return _WATCH.pack(*self)


def decode(kept: bytes) -> Watch | None:
    """What is kept; None where that cannot be read."""
    if len(kept) != _WATCH.size:
        return None
    watch = Watch._make(_WATCH.unpack(kept))
    return watch._replace(silent=bool(watch.silent))


class Head(NamedTuple):
    """What a stream's record says: readings, time of the last one, and whether the mark of a silence stands there."""

    readings: int
    last_ms: int
    silent: bool


def head_of(begin: bytes) -> Head | None:
    """From the first bytes of a record; None where there is none."""
    if len(begin) < STREAM_PART.itemsize:
        return None
    record = np.frombuffer(begin, STREAM_PART, 1)[0]
    return Head(int(record["readings"]), int(record["last_ms"]), bool(record["status"] & SILENT))


class Look(NamedTuple):
    """What a look comes to.

    Attributes:
        watch: what is known from now on.
        next_ms: when to look again.
        quiet: the stream has been silent beyond its patience, as far as a look can tell.
        back: the stream sends again; its silence has number `-before`, and may still be open.
    """

    watch: Watch
    next_ms: int
    quiet: bool = False
    back: bool = False


def look(before: Watch | None, head: Head, now_ms: int, since_ms: int, k: float) -> Look:
    """Look at a stream.

    Args:
        since_ms: from when on somebody always looked; before that it may have sent in vain.
        k: cadences that a stream may be silent for.
    """
    if before is None or head.readings < before.readings:  # begun, or begun anew
        watch = Watch(head.readings, now_ms, now_ms, now_ms)
        return Look(watch, now_ms + LEAST_MS, back=before is not None and before.silent)
    if head.readings > before.readings:
        return _heard(before, head, now_ms, since_ms, k)
    watch = before._replace(looked_ms=now_ms, silent=before.silent or head.silent)
    waited_ms = now_ms - before.found_ms
    if watch.silent or not _judged(watch):
        return Look(watch, now_ms + min(max(LEAST_MS, waited_ms), SEEK_MS))
    allowed_ms = patience(watch, k)
    due_ms = _due(watch, allowed_ms, since_ms)
    return Look(watch, due_ms if due_ms > now_ms else now_ms + LEAST_MS, quiet=due_ms <= now_ms)


def patience(watch: Watch, k: float) -> float:
    """How long a stream may be silent, milliseconds."""
    return max(LEAST_MS, k * watch.cadence_ms, GAP_MARGIN * watch.pause_ms)


def patience_of(times_ms: NDArray[np.int64], k: float) -> float:
    """How long a stream may be silent by the (N,) times of its kept readings, milliseconds."""
    passed = np.diff(times_ms)
    passed = passed[passed > 0]  # a clock that was set back tells nothing
    return max(k * float(np.median(passed)), GAP_MARGIN * float(passed.max())) if len(passed) else 0.0


def more_patient(watch: Watch, allowed_ms: float) -> tuple[Watch, int]:
    """What is known of a stream whose kept readings ask for more patience, and when to look again."""
    watch = watch._replace(pause_ms=max(watch.pause_ms, allowed_ms / GAP_MARGIN))
    return watch, max(_due(watch, allowed_ms, 0), watch.looked_ms + LEAST_MS)


def _judged(watch: Watch) -> bool:
    return watch.readings >= LEAST_READINGS and watch.times >= LEAST_TIMES and watch.delay_ms <= LIVE_MS


def _due(watch: Watch, allowed_ms: float, since_ms: int) -> int:
    """When a stream is silent that sends nothing from now on.

    When it was heard is a guess by the time of its reading. So there must have been no new reading at two looks that
    are half of its patience apart.
    """
    return max(round(max(watch.heard_ms, since_ms) + allowed_ms), round(watch.found_ms + allowed_ms / 2))


def _heard(before: Watch, head: Head, now_ms: int, since_ms: int, k: float) -> Look:
    """A look that finds new readings."""
    came, behind_ms = head.readings - before.readings, float(now_ms - head.last_ms)
    first = before.times == 0
    guess_ms = now_ms if first else round(min(head.last_ms + before.delay_ms + before.cadence_ms, now_ms))
    heard_ms = max(guess_ms, before.looked_ms)
    cadence_ms, delay_ms = (heard_ms - before.heard_ms) / came, behind_ms
    if before.cadence_ms > 0:  # a pause changes little of what is usual
        most_ms = 4 * before.cadence_ms
        cadence_ms = before.cadence_ms + LEARNING * (min(cadence_ms, most_ms) - before.cadence_ms)
        delay_ms = before.delay_ms + LEARNING * min(delay_ms - before.delay_ms, most_ms)
    paused_ms = float(before.looked_ms - max(before.heard_ms, since_ms))
    pause_ms = before.pause_ms
    if paused_ms > max(k * cadence_ms, LEAST_MS):
        pause_ms = max(paused_ms, GAP_MEMORY * pause_ms)
    watch = Watch(
        head.readings, heard_ms, now_ms, now_ms,
        cadence_ms, delay_ms, pause_ms, min(before.times + 1, 255),
    )  # fmt: skip
    return Look(watch, max(_due(watch, patience(watch, k), 0), now_ms + 1), back=before.silent)


def found_silent(stream: str, model: str, watch: Watch, head: Head, now_ms: int, allowed_ms: float) -> Incident:
    """The incident of a stream that has been silent beyond its patience: its score is how often that has passed.

    It began, by its onset, when the next reading should have come.
    """
    onset_ms = round(watch.heard_ms + watch.cadence_ms)
    score = max((now_ms - watch.heard_ms) / max(allowed_ms, 1.0), 1.0)
    alert = RaisedAlert(now_ms, SILENT_REASON, score, "", None, None, None)
    return Incident(
        n=-head.readings,
        stream=stream,
        model=model,
        onset_ms=min(onset_ms, now_ms),
        start_ms=now_ms,
        last_ms=watch.heard_ms,
        end_ms=None,
        reason=SILENT_REASON,
        peak_score=score,
        peak_ms=now_ms,
        last_score=score,
        anomalous=0,
        judged=0,
        channels=[],
        alerts=[alert],
    )


def over(silence: Incident, end_ms: int) -> Incident:
    """A silence that has ended, and not before it was found."""
    end_ms = max(end_ms, silence.start_ms)
    allowed_ms = max((silence.start_ms - silence.last_ms) / silence.peak_score, 1.0)
    score = max(silence.peak_score, (end_ms - silence.last_ms) / allowed_ms)
    return msgspec.structs.replace(
        silence, last_ms=end_ms, end_ms=end_ms, peak_score=score, peak_ms=end_ms, last_score=score
    )
