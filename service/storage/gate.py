"""Gate: how many requests of a kind may ask Redis at a time, so that they never take the connections of batches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from gatewatch.service.errors import Contended, ForeignValue, StoreUnavailable
from gatewatch.service.turns import Turns


class Gate:
    """At most so many are inside at a time; who comes later waits, tenant by tenant.

    Nobody waits for an outage twice: when one inside fails for want of Redis, all who wait fail with it.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting = Turns[asyncio.Future[None]]()

    @contextlib.asynccontextmanager
    async def of(self, tenant: str) -> AsyncIterator[None]:
        """A place for a request of a tenant, as long as the block lasts."""
        await self._enter(tenant)
        try:
            yield
        except StoreUnavailable as error:
            if not isinstance(error, (Contended, ForeignValue)):
                for turn in self._waiting.clear():
                    if not turn.done():
                        turn.set_exception(error)
            raise
        finally:
            self._pass_on()

    async def _enter(self, tenant: str) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.add(tenant, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            _, turn = self._waiting.next()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
