"""Admission: whether more readings may wait now, by their number and by the time that those ahead of them take."""

from __future__ import annotations

from collections import deque
from typing import Final

from gatewatch.service.errors import TooLarge, TooManyWaiting
from gatewatch.service.intake.queue import Queue

BATCH_COST: Final = 32
"""Readings; a batch of one takes as long as one of so many more that are of different streams (measured)."""

PACE_BATCHES: Final = 5
"""Of so many batches the middle one says what a reading takes: one that waited for a busy Redis says nothing of it. As
a running mean it had two thirds of all requests refused beside a Redis that paused for 0.3 s in each 0.6 s."""


class Admission:
    """Knows the bounds, and the pace of late."""

    def __init__(self, waiting_readings: int, waiting_ms: float) -> None:
        """`waiting_readings`: at most so many wait. `waiting_ms`: at most so much work is ahead of a request."""
        self._most = waiting_readings
        self._most_s = waiting_ms / 1000
        self._reading_s = 0.0  # what one of many readings takes, of late
        self._paces = deque[float](maxlen=PACE_BATCHES)

    def check(self, tenant: str, readings: int, queue: Queue) -> None:
        """Raise TooManyWaiting if so many readings of a tenant may not wait now.

        More than may ever wait are TooLarge: sent again they would be refused for ever. Where others have taken all the
        room, and are ahead by more than may be, a tenant that has less waiting than they is let in all the same.
        """
        if readings > self._most:
            raise TooLarge(
                f"{readings} readings in one request; at most {self._most} may wait to be scored "
                "(GATEWATCH_WAITING_READINGS): send them in several"
            )
        if not queue.has_room(tenant, readings, self._most):
            raise TooManyWaiting(
                f"{queue.waiting} readings wait to be scored; at most {self._most} may wait: "
                "send again after the time in Retry-After"
            )
        if queue.ahead * self._reading_s <= self._most_s:
            return
        ahead = queue.ahead_of(tenant)
        ahead_s = ahead * self._reading_s
        if ahead_s > self._most_s:
            raise TooManyWaiting(
                f"the {ahead} readings that wait to be scored take {ahead_s:.1f} s; at most "
                f"{self._most_s:g} s may be ahead of a request (GATEWATCH_WAITING_MS): "
                "send again after the time in Retry-After"
            )

    def note_pace(self, readings: int, took_s: float) -> None:
        """A batch of so many readings took so long."""
        self._paces.append(took_s / (readings + BATCH_COST))
        self._reading_s = sorted(self._paces)[len(self._paces) // 2]
