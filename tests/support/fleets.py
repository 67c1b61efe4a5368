"""Processes over one Redis with a clock that a test sets: what silence and groups are tried with."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gatewatch.service.core.build import Core, build_core
from gatewatch.service.core.contention import ContentionBackoff
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.core.takeover import Takeover
from gatewatch.service.incidents.groups import Groups
from gatewatch.service.incidents.lookout import Lookout
from gatewatch.service.incidents.reading import IncidentReader, Search
from gatewatch.service.incidents.rules import Rules
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.serving.registry import Registry
from gatewatch.service.serving.served_model import ServedModel
from gatewatch.service.storage.cluster_store import store_of
from gatewatch.service.storage.group_store import GroupStore
from gatewatch.service.storage.silence_store import SilenceStore
from tests.support.samples import PATIENT_MS
from tests.support.scorer import NothingAsked, read

BEGIN_MS = 1_800_000_000_000
WEEK_MS = 7 * 86_400_000


class SetClock:
    """A Clock that stands until it is set."""

    ms = BEGIN_MS

    def unix_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


class Asked(NothingAsked):
    """What a test asks of streams, by their names."""

    def __init__(self) -> None:
        self.tagged: dict[str, Mapping[str, str]] = {}
        self.muted: set[str] = set()
        self.ruled: dict[str, Rules] = {}

    def rules(self, streams: Sequence[StreamKey]) -> dict[int, Rules]:
        return {at: self.ruled[stream.name] for at, stream in enumerate(streams) if stream.name in self.ruled}

    def tags(self, stream: StreamKey) -> Mapping[str, str]:
        return self.tagged.get(stream.name, {})

    def is_muted(self, stream: StreamKey) -> bool:
        return stream.name in self.muted


class Process:
    """One process of a service: its core, and its lookout."""

    def __init__(
        self,
        url: str,
        tenant: str,
        model: ServedModel,
        clock: SetClock,
        asked: Asked,
        group_by: str | None = "site",
        most_open: int = 1000,
        most_streams: int = 10_000_000,
        incident_write_s: float = 0.0,
    ) -> None:
        self.tenant, self.model, self.clock = tenant, model, clock
        self.metrics = Metrics()
        self.store = store_of(url, tenant, PATIENT_MS, now=lambda: clock.ms / 1000)
        self.store.watches = True
        self.silences = SilenceStore(self.store, clock.unix_ms)
        self.groups = Groups(GroupStore(self.store, WEEK_MS), asked, group_by, 60_000)
        self.core: Core = build_core(
            Registry(model),
            self.store,
            self.metrics,
            ContentionBackoff(random.Random(0)),
            Takeover(self.store, model.name, self.metrics),
            clock,
            asked,
            save_attempts=20,
            most_streams=most_streams,
            groups=self.groups,
            incident_write_s=incident_write_s,
        )
        books = self.core.books
        self.lookout = Lookout(self.store, self.silences, self.groups, asked, books, clock, 10.0, most_open)

    async def post(self, sent: Iterable[dict[str, Any]]) -> None:
        """Score readings."""
        await self.core.scorer.score_batch(read(self.model, self.tenant, *sent))

    async def look(self) -> None:
        """Look at all that is due."""
        while await self.lookout.step(range(self.silences.buckets)):
            pass

    async def incidents(self, **search: Any) -> list[dict[str, Any]]:
        """All incidents, those that began last first."""
        found, after = list[dict[str, Any]](), ""
        while True:
            page, next_ = await IncidentReader(self.store.incidents, self.tenant).page(Search(**search), after, 500)
            found += page
            if next_ is None:
                return found
            after = next_

    def alerts(self, reason: str = "silent") -> float:
        """How many alerts this process has told."""
        return float(self.metrics._alerts.labels(reason)._value.get())


def sent_at(streams: Sequence[str], now_ms: int, **values: float | None) -> list[dict[str, Any]]:
    """A reading of each stream, now; where no values are given, as nothing is wrong."""
    given = values or {"pressure": 3.0 + now_ms % 70_000 / 1e5, "flow": 3.0 - now_ms % 110_000 / 1e5}
    return [{"stream": stream, "timestamp": now_ms / 1000, "values": given} for stream in streams]
