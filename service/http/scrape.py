"""Scrape: what `/metrics` shows beside the counts: what Redis knows, looked up when it is asked for."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import structlog

from gatewatch.models.detectors.detector import expected_band
from gatewatch.service.clock import Clock
from gatewatch.service.core import history
from gatewatch.service.core import records as state
from gatewatch.service.core.layout import Layout
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import StoreUnavailable, cause_of
from gatewatch.service.http.readiness import Readiness
from gatewatch.service.incidents.incident import Incident, RaisedAlert, decode
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.observability.named import ChannelBand, OpenAnomaly
from gatewatch.service.policies.policies import StreamPolicies
from gatewatch.service.settings import Settings
from gatewatch.service.storage.store import StateStore

log = structlog.get_logger(__name__)

FRESH_S: Final = 2.0
"""For so long the names that were found are shown again, while as many streams are open."""

RANKED: Final = 10_000
"""Most streams with an open anomaly of which the highest scores are chosen: those that sent last."""

SLICE: Final = 1000
"""Streams whose incidents are read at a time."""


class Scrape:
    """Looks up what `/metrics` shows. Who asks while it looks sees the same."""

    def __init__(
        self,
        readiness: Readiness,
        store: StateStore,
        metrics: Metrics,
        settings: Settings,
        policies: StreamPolicies,
        clock: Clock,
    ) -> None:
        self._readiness = readiness
        self._store = store
        self._metrics = metrics
        self._policies = policies
        self._clock = clock
        self._tenant = settings.tenant
        self._within_s = settings.open_anomaly_s
        self._most_open = settings.open_series
        self._patterns = settings.channel_series
        self._most_streams = settings.channel_series_streams
        self._looking: asyncio.Task[None] | None = None
        self._at = -math.inf
        self._open = 0

    async def exposition(self) -> bytes:
        """The text that Prometheus scrapes. While Redis is away no stream is named, and `gatewatch_store_up` is 0."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        await asyncio.shield(self._looking)
        return self._metrics.exposition()

    async def _look(self) -> None:
        try:
            await self._readiness.look()
            found = await self._store.open_anomalies(self._within_s, 0)
            tenants = self._store.keys.tenants
            self._metrics.streams.set(sum([await self._store.count_streams(tenant) for tenant in tenants]))
            self._metrics.windows_active.set(self._policies.active_windows(self._clock.unix_ms()))
            now = asyncio.get_running_loop().time()
            if now - self._at >= FRESH_S or found.count != self._open:
                self._at, self._open = now, found.count
                await self._look_at_open()
                self._metrics.named.channels = await self._chosen() if self._patterns else ()
        except StoreUnavailable as error:
            self._metrics.named.open = self._metrics.named.channels = ()
            self._metrics.store_up.set(0)
            self._at = -math.inf
            log.warning("open anomalies not counted", error=str(error), cause=cause_of(error))
        finally:
            self._looking = None

    async def _look_at_open(self) -> None:
        found = await self._store.open_anomalies(self._within_s, RANKED if self._most_open else 0)
        open_: list[OpenAnomaly] = []
        for start in range(0, len(found.streams), SLICE):
            some = found.streams[start : start + SLICE]
            for stream, kept in zip(some, await self._store.latest_incidents(some), strict=True):
                incident = decode(kept)
                if incident is not None and incident.is_open:
                    tenant = "" if stream.tenant == self._tenant else stream.tenant
                    open_ += (_named(tenant, incident, alert) for alert in incident.alerts)
        named: dict[tuple[str, str, str], OpenAnomaly] = {}
        streams: set[tuple[str, str]] = set()
        for one in sorted(open_, key=lambda one: (-one.score, one.tenant, one.stream, one.channel)):
            stream_of = (one.tenant, one.stream)
            if stream_of in streams or len(streams) < self._most_open:
                streams.add(stream_of)
                named.setdefault((*stream_of, one.channel), one)
        self._metrics.named.open = list(named.values())
        self._metrics.open_anomalies.set(found.count)
        self._metrics.open_left_out.set(found.count - len(streams))

    async def _chosen(self) -> list[ChannelBand]:
        """The channels of the streams that the setting chooses, each at its stream's last reading."""
        streams: dict[StreamKey, None] = {}
        count = 0
        for pattern in self._patterns:
            some, there = await self._store.streams_like(pattern, self._most_streams)
            fresh = [name for name in some if name not in streams]
            streams.update(dict.fromkeys(fresh))
            count += there - (len(some) - len(fresh))
        names = list(streams)[: self._most_streams]
        self._metrics.channel_streams_left_out.set(max(0, count - len(names)))
        return await self._last_readings(names) if names else []

    async def _last_readings(self, names: Sequence[StreamKey]) -> list[ChannelBand]:
        seeds = self._store.seeds(names)
        places: list[tuple[int, int]] = []
        layouts: list[tuple[StreamKey, int, Layout]] = []
        for name, seed, packed in zip(names, seeds, await self._store.load(names), strict=True):
            part = state.stream_part(packed or b"", seed)
            if part is not None and part[0]["readings"][0]:
                record, layout = part[0][0], part[1]
                at = (int(record["readings"]) - 1) % int(record["history"])
                start = len(layout.ring_header) + at * layout.entry.itemsize
                places.append((start, start + layout.entry.itemsize - 1))
                layouts.append((name, seed, layout))
        pieces = await self._store.history_pieces([name for name, _, _ in layouts], places) if places else []
        bands: list[ChannelBand] = []
        for (name, seed, layout), piece in zip(layouts, pieces, strict=True):
            for entry in history.unpack_slots(piece, layout.entry, layout.slot_seed(seed)):
                shares = entry["score"].astype(np.float64) * entry["attribution"]
                lines = zip(entry["values"], expected_band(entry["mid"], entry["half"]), shares, strict=True)
                for channel, (value, (low, mid, high), share) in zip(layout.channels, lines, strict=True):
                    bands.append(ChannelBand(name.name, channel, *map(_number, (value, mid, low, high, share))))
        return bands


def _named(tenant: str, incident: Incident, alert: RaisedAlert) -> OpenAnomaly:
    return OpenAnomaly(
        incident.stream,
        alert.channel,
        alert.reason,
        alert.direction or "none",
        incident.model,
        tenant,
        alert.score,
        alert.actual,
        alert.expected,
        alert.timestamp_ms / 1000,
    )


def _number(value: np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None
