"""Readiness: whether a reading sent now would be scored. What /readyz says, the metrics say."""

from __future__ import annotations

import asyncio

import structlog

from gatewatch.service.core.takeover import Takeover
from gatewatch.service.errors import ForeignValue, StoreUnavailable, cause_of
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.storage.store import StateStore

log = structlog.get_logger(__name__)


class Readiness:
    """Looks whether Redis does what a reading needs. Who asks while it looks hears the same."""

    def __init__(self, store: StateStore, takeover: Takeover, metrics: Metrics, strict: bool) -> None:
        self._store = store
        self._takeover = takeover
        self._metrics = metrics
        self._strict = strict
        self._looking: asyncio.Task[list[str]] | None = None
        self._warned: list[str] = []

    async def look(self) -> list[str]:
        """What an operator should change though readings are scored; each is logged once.

        Raises:
            StoreUnavailable: a reading sent now would not be scored, or not be kept; says why.
        """
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(self._looked)
        return await asyncio.shield(self._looking)

    def _looked(self, task: asyncio.Task[list[str]]) -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()  # whoever asked has it, if he is still there

    async def _look(self) -> list[str]:
        try:
            warnings = await self._look_for_a_takeover()
            own = await self._store.try_reading()
            warnings += await self._store.check(self._strict)
            warnings += [] if own else self._foreign(await self._store.foreign())
            try:
                await self._note_loss()
            except ForeignValue as error:
                warnings += self._foreign(str(error))
        except StoreUnavailable:
            self._metrics.store_up.set(0)
            self._metrics.store_error("check")
            raise
        self._metrics.store_up.set(1)
        if self._store.memory is not None:
            used, limit = self._store.memory
            self._metrics.store_memory.set(used)
            self._metrics.store_memory_limit.set(limit)
        for warning in warnings:
            if warning not in self._warned:
                log.warning("readings are scored, but " + warning)
        self._warned = warnings
        return warnings

    async def _look_for_a_takeover(self) -> list[str]:
        warnings = []
        try:
            await self._takeover.look()
        except ForeignValue as error:
            if not self._takeover.number:
                raise
            warnings = self._foreign(str(error))  # readings are scored under the number that is known
        self._takeover.require_ready()
        return warnings

    def _foreign(self, warning: str) -> list[str]:
        self._metrics.foreign_value()
        return [warning] if warning else []

    async def _note_loss(self) -> None:
        if await self._store.lost_everything():
            self._metrics.lost_everything()
            log.error("Redis has forgotten all streams: it was emptied, or is another server; all streams begin anew")

    async def begin(self) -> None:
        """Look once before the first reading; the service starts whatever comes of it."""
        try:
            await self.look()
        except StoreUnavailable as error:
            log.warning("started, but readings get 503 until Redis takes them", error=str(error), cause=cause_of(error))
