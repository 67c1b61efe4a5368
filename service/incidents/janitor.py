"""Forget incidents that are old, or more than are kept. Each process does it now and then; twice does no harm."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from gatewatch.service.clock import Clock
from gatewatch.service.errors import ServiceError
from gatewatch.service.storage.incident_store import TRIMMED, IncidentStore

log = structlog.get_logger(__name__)

EVERY_S: Final = 60.0
SOON_S: Final = 1.0
"""After a full portion was forgotten there are more."""

DAY_MS: Final = 86_400_000


async def forget_old(store: IncidentStore, clock: Clock, days: float, most: int) -> None:
    """Forget incidents older than `days`, and the oldest of a tenant beyond `most`. Ends when cancelled."""
    while True:
        forgotten = 0
        try:
            for tenant in store.tenants:
                forgotten = max(forgotten, await store.trim(tenant, clock.unix_ms() - round(days * DAY_MS), most))
        except ServiceError as error:
            log.debug("incidents not looked through", error=str(error))
        await asyncio.sleep(SOON_S if forgotten >= TRIMMED else EVERY_S)
