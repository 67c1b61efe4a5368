"""Listeners hear of each change, whatever becomes of the clocks of the processes."""

from __future__ import annotations

import asyncio

import pytest

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.incidents import feed
from gatewatch.service.incidents.feed import Feed
from tests.support.asynchronous import asynchronous
from tests.support.fleets import Asked, Process, SetClock, sent_at
from tests.support.scorer import model_of

HOUR_MS = 3_600_000


@asynchronous
async def test_a_change_is_heard_of_after_a_clock_was_set_back(
    redis_url: str, tenant: str, detector: TrainedDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of changes has the times of the processes that write them."""
    monkeypatch.setattr(feed, "EVERY_S", 0.02)
    clock = SetClock()
    process = Process(redis_url, tenant, model_of(detector, 64, 60_000), clock, Asked())
    told = Feed(process.store.incidents, clock)
    changes = told.changes(tenant, None)

    async def heard_of(stream: str) -> None:
        began = clock.ms
        for at in range(12):
            await process.post(sent_at([stream], began + 1000 * at, pressure=3.0 if at < 11 else 900.0))
        async with asyncio.timeout(10):
            while (change := await anext(changes)) is None or change[1]["stream"] != stream:
                pass

    listening = asyncio.create_task(heard_of("before"))
    await listening
    clock.ms -= HOUR_MS
    await heard_of("after")
    await changes.aclose()
    await process.store.close()


@pytest.mark.parametrize("back_ms", [1000, HOUR_MS])
@asynchronous
async def test_who_comes_back_after_a_clock_was_set_back_hears_what_changed_since(
    redis_url: str, tenant: str, detector: TrainedDetector, back_ms: int
) -> None:
    clock = SetClock()
    process = Process(redis_url, tenant, model_of(detector, 64, 60_000), clock, Asked())
    last_heard_ms = clock.ms
    clock.ms -= back_ms
    for at in range(12):
        await process.post(sent_at(["pump"], clock.ms + at, pressure=3.0 if at < 11 else 900.0))
    clock.ms += 10_000
    changes = Feed(process.store.incidents, clock).changes(tenant, last_heard_ms)
    async with asyncio.timeout(10):
        first = await anext(changes)
    assert first is not None
    assert first[1]["stream"] == "pump"
    await changes.aclose()
    await process.store.close()
