"""Rejected: what the operator hears of readings that were rejected; their senders may never read the answers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from gatewatch.service.observability.metrics import Metrics

log = structlog.get_logger(__name__)

MARK: Final = '"status":"rejected"'
"""Of an answer; a name or a text inside it cannot hold it, since their quotes are escaped."""

SILENCE_S: Final = 60.0
"""After a line about a reason, as long as this there is none about the same."""

SHOWN: Final = 300
"""Characters of an error in the log."""


class _Answer(msgspec.Struct):
    stream: str | None
    error: str


_decode = msgspec.json.Decoder(_Answer).decode


class Rejected:
    """Counts rejected readings by reason, and logs the first of each reason, then one a minute."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._logged: dict[str, float] = {}
        self._since: Counter[str] = Counter()

    def look(self, answers: Sequence[str]) -> str | None:
        """Count the rejections among a request's answers and tell of them; the first's text where all are some."""
        rejected = [_decode(text) for text in answers if MARK in text]
        for answer in rejected:
            reason = reason_of(answer.error)
            self._metrics.rejected(reason)
            self._since[reason] += 1
            now = self._clock()
            if now - self._logged.get(reason, -SILENCE_S) >= SILENCE_S:
                self._logged[reason] = now
                readings, error = self._since.pop(reason), answer.error[:SHOWN]  # the log escapes what is not ASCII
                log.warning("readings rejected", reason=reason, readings=readings, stream=answer.stream, error=error)
        return rejected[0].error if rejected and len(rejected) == len(answers) else None


def reason_of(error: str) -> str:
    """One of metrics.REJECTIONS, by how a rejection's text begins: with the field that it is about."""
    field, _, rest = error.partition(" ")
    if field == "values" or field.startswith("values."):
        return "channel" if rest.startswith("is not a channel") or "; this model has" in rest else "value"
    if field == "timestamp":
        return "clock" if "ahead of this service's clock" in rest else "timestamp"
    if field == "seq":
        return "gap" if "waits at gaps" in rest else "seq"
    if field == "stream":
        return "stream"
    if "GATEWATCH_STREAMS" in error:
        return "room"
    if field == "line" or error.startswith("a reading is") or "is not a field of a reading" in error:
        return "form"
    return "other"
