"""Feed: tells listeners of this process what changes in incidents, whichever process changed it.

While anybody listens, the list of changes is read once a second; each listener has a queue of its own. One that does
not read is ended, so that nobody else waits for it and no memory grows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from gatewatch.service.clock import Clock
from gatewatch.service.errors import ServiceError
from gatewatch.service.incidents.reading import IncidentReader
from gatewatch.service.storage.incident_store import IncidentStore
from gatewatch.service.turns import has_room

log = structlog.get_logger(__name__)

EVERY_S: Final = 1.0
OVERLAP_MS: Final = 5000
"""Changes are looked for from so long before the last one on: processes write their own times."""

QUEUED: Final = 1000
"""Changes that wait for a listener; one with more is ended."""

PAUSE_S: Final = 2.0
"""After so long without a change a listener gets None: whoever serves it may look whether it is still there."""

AT_ONCE: Final = 500
LISTENERS: Final = 100


@dataclass(eq=False)
class _Listener:
    tenant: str
    queue: asyncio.Queue[tuple[int, dict[str, Any]] | None] = field(default_factory=lambda: asyncio.Queue(QUEUED + 1))


class Feed:
    """The changes of incidents, as they come."""

    def __init__(self, store: IncidentStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._listeners: set[_Listener] = set()
        self._seen: dict[tuple[str, str], int] = {}  # tenant and incident to the time of the change that was told
        self._since_ms = 0
        self._task: asyncio.Task[None] | None = None

    def has_room(self, tenant: str) -> bool:
        """Whether one more of a tenant may listen."""
        own = sum(listener.tenant == tenant for listener in self._listeners)
        tenants = len({tenant, *(listener.tenant for listener in self._listeners)})
        return has_room(1, own, len(self._listeners), tenants, LISTENERS)

    async def changes(
        self, tenant: str, since_ms: int | None
    ) -> AsyncGenerator[tuple[int, dict[str, Any]] | None, None]:
        """Changes of a tenant's incidents from a time on, or from now on: when, and the incident; None after a pause.

        Some of before that time come again: what was saved later may have an earlier one, by another process's clock.
        Where the time is still to come, clocks were set back since, and all that is kept comes again.

        Ends when the service stops, or when the listener was too slow.
        """
        listener = _Listener(tenant)
        self._listeners.add(listener)
        try:
            if self._task is None:
                self._since_ms = self._clock.unix_ms()
                self._task = asyncio.create_task(self._work(), name="incident feed")
            if since_ms is not None:
                ahead_ms = since_ms - self._clock.unix_ms()
                async for page in self._pages(tenant, since_ms - OVERLAP_MS if ahead_ms <= OVERLAP_MS else 0):
                    for missed in page:
                        yield missed
            while True:
                try:
                    async with asyncio.timeout(PAUSE_S):
                        change = await listener.queue.get()
                except TimeoutError:
                    yield None
                    continue
                if change is None:
                    return
                yield change
        finally:
            self._listeners.discard(listener)
            if not self._listeners and self._task is not None:
                self._task.cancel()
                self._task = None

    def stop(self) -> None:
        """End all listeners."""
        for listener in self._listeners:
            _end(listener)

    async def _work(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            self._since_ms = min(self._since_ms, self._clock.unix_ms())  # which may have been set back
            since_ms, newest_ms, seen = self._since_ms - OVERLAP_MS, self._since_ms, dict[tuple[str, str], int]()
            try:
                for tenant in {listener.tenant for listener in self._listeners}:
                    async for page in self._pages(tenant, since_ms):
                        self._tell(tenant, [(at, one) for at, one in page if self._seen.get((tenant, one["id"])) != at])
                        seen |= {(tenant, one["id"]): at for at, one in page}
                        newest_ms = max([newest_ms, *(at for at, _ in page)])
            except ServiceError as error:
                log.warning("incidents not read", error=str(error))
                seen |= self._seen
            self._seen, self._since_ms = seen, newest_ms

    async def _pages(self, tenant: str, since_ms: int) -> AsyncIterator[list[tuple[int, dict[str, Any]]]]:
        """All changes of a tenant's incidents since a time, the first first."""
        reader, after = IncidentReader(self._store, tenant), None
        while True:
            page, after = await reader.changed(since_ms, AT_ONCE, after)
            yield page
            if after is None:
                return

    def _tell(self, tenant: str, changes: Sequence[tuple[int, dict[str, Any]]]) -> None:
        for listener in [one for one in self._listeners if one.tenant == tenant]:
            for change in changes:
                if listener.queue.qsize() >= QUEUED:
                    _end(listener)
                    break
                listener.queue.put_nowait(change)


def _end(listener: _Listener) -> None:
    with contextlib.suppress(asyncio.QueueFull):
        listener.queue.put_nowait(None)
