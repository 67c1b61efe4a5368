"""Gate: how many requests of a kind may ask Redis at a time, so that they never take the connections of batches."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType

from gatewatch.service.errors import Contended, ForeignValue, StoreUnavailable


class Gate:
    """At most so many are inside at a time; who comes later waits, in order.

    Nobody waits for an outage twice: when one inside fails for want of Redis, all who wait fail with it.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, StoreUnavailable) and not isinstance(error, (Contended, ForeignValue)):
            while self._waiting:
                turn = self._waiting.popleft()
                if not turn.done():
                    turn.set_exception(error)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
