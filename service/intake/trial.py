"""Trial: readings are answered as they would be, and nothing of it stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from gatewatch.service.core.outcomes import Answer, Encoder
from gatewatch.service.core.scorer import Scorer
from gatewatch.service.doors.door import Part, merged
from gatewatch.service.intake.beside import Beside
from gatewatch.service.intake.queue import MAX_PER_STREAM


class Trial:
    """Answers readings that are only tried."""

    def __init__(self, make_scorer: Callable[[], Scorer], beside: Beside) -> None:
        """`make_scorer`: one over a TrialStore of its own."""
        self._make_scorer = make_scorer
        self._beside = beside

    async def score(self, parts: Sequence[Part], encoder: Encoder) -> list[Answer]:
        """The answers that readings would get now, each stream's in their order.

        Raises:
            ServiceError: what the request would meet, too.
        """
        with structlog.contextvars.bound_contextvars(dry_run=True):  # as for a sender that would count anew
            readings = [part.decoded.readings for part in parts]
            return merged(
                parts, await self._beside.score(self._make_scorer(), readings, encoder, MAX_PER_STREAM), encoder
            )
