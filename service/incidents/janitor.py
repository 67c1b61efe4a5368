"""Forget incidents that are old, or more than are kept. Each process does it now and then; twice does no harm."""

from __future__ import annotations

from typing import Final

from gatewatch.service.background import repeat
from gatewatch.service.clock import Clock
from gatewatch.service.storage.incident_store import TRIMMED, IncidentStore

EVERY_S: Final = 60.0
SOON_S: Final = 1.0
"""After a full portion was forgotten there are more."""

DAY_MS: Final = 86_400_000


async def forget_old(store: IncidentStore, clock: Clock, days: float, most: int) -> None:
    """Forget incidents older than `days`, and the oldest of a tenant beyond `most`. Ends when cancelled."""

    async def step() -> float:
        now_ms = clock.unix_ms()
        before_ms = now_ms - round(days * DAY_MS)
        forgotten = [await store.trim(tenant, before_ms, most, now_ms) for tenant in store.tenants]
        return SOON_S if max(forgotten, default=0) >= TRIMMED else EVERY_S

    await repeat(step, "incidents not looked through", EVERY_S)
