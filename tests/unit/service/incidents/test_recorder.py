"""What a batch makes of incidents, and what that costs."""

from __future__ import annotations

from typing import Any

import pytest

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.incidents import incident
from gatewatch.service.incidents.rules import Rules, Span
from tests.support.asynchronous import asynchronous
from tests.support.fleets import Asked, Process, SetClock, sent_at
from tests.support.scorer import model_of

CALM = 6


@asynchronous
async def test_an_incident_that_begins_has_its_channels_made_once(
    redis_url: str, tenant: str, detector: TrainedDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, asked, made = SetClock(), Asked(), 0
    asked.ruled = {"ruled": Rules(merge=Span(6, None))}
    process = Process(url=redis_url, tenant=tenant, model=model_of(detector), clock=clock, asked=asked)
    shares_of = incident.shares_of

    def counted(*given: Any) -> list[incident.Share]:
        nonlocal made
        made += 1
        return shares_of(*given)

    monkeypatch.setattr(incident, "shares_of", counted)
    for at in range(CALM + 1):
        clock.ms += 1000
        await process.post(
            sent_at(["plain", "ruled"], clock.ms, **({"pressure": 900.0, "flow": 3.0} if at == CALM else {}))
        )
    assert sorted(one["stream"] for one in await process.incidents()) == ["plain", "ruled"]
    assert process.alerts("event") == 2
    assert made == 2
    await process.core.books.settle()
    await process.store.close()
