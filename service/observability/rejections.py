"""Rejected: what the operator hears of readings that were rejected; their senders may never read the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import structlog

from gatewatch.models.text import listed
from gatewatch.service.clock import Clock
from gatewatch.service.core.outcomes import Refused
from gatewatch.service.doors.door import Decoded
from gatewatch.service.observability.metrics import Metrics

log = structlog.get_logger(__name__)

SILENCE_S: Final = 60.0
"""After a line about a reason, as long as this there is none about the same."""

SHOWN: Final = 300
"""Characters of an error in the log."""


UNKNOWN: Final = "unknown channel"


class Rejected:
    """Counts rejected readings by reason, and logs the first of each reason, then one a minute."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._logged: dict[str, float] = {}
        self._since: Counter[str] = Counter()

    def look(self, refused: Sequence[Refused], answers: int) -> str | None:
        """Count a request's rejections and tell of them; the first's text where all of so many answers are some."""
        rejected = [one for one in refused if one.status == "rejected"]
        for one in rejected:
            reason = reason_of(one.error)
            self._metrics.rejected(reason)
            self._since[reason] += 1
            now = self._clock.monotonic()
            if now - self._logged.get(reason, -SILENCE_S) >= SILENCE_S:
                self._logged[reason] = now
                readings, error = self._since.pop(reason), one.error[:SHOWN]  # the log escapes what is not ASCII
                log.warning("readings rejected", reason=reason, readings=readings, stream=one.stream, error=error)
        return rejected[0].error if rejected and len(rejected) == answers else None

    def look_unknown(self, decoded: Decoded) -> None:
        """Count readings that were taken without channels that their model does not know, and tell of them."""
        if not decoded.unknown:
            return
        self._metrics.unknown_channels(len(decoded.unknown))
        self._since[UNKNOWN] += len(decoded.unknown)
        now = self._clock.monotonic()
        if now - self._logged.get(UNKNOWN, -SILENCE_S) >= SILENCE_S:
            self._logged[UNKNOWN] = now
            names = sorted({name for channels in decoded.unknown.values() for name in channels})
            log.warning(
                "channels left out that the model of their stream does not know",
                readings=self._since.pop(UNKNOWN),
                channels=listed(names)[:SHOWN],
                model=decoded.readings.model.detector.name,
            )


def reason_of(error: str) -> str:
    """One of metrics.REJECTIONS, by how a rejection's text begins: with the field that it is about."""
    field, _, rest = error.partition(" ")
    if field == "values" or field.startswith("values."):
        return (
            "channel"
            if rest.startswith(("is not a channel", "has no channel of")) or "; this model has" in rest
            else "value"
        )
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
