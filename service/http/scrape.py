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
from gatewatch.service.incidents.incident import SILENT_REASON, Incident, RaisedAlert, decode, number_and_stream
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.observability.named import ChannelBand, OpenAnomaly, OpenGroup
from gatewatch.service.policies.policies import StreamPolicies
from gatewatch.service.settings import Settings
from gatewatch.service.storage.group_store import GroupStore
from gatewatch.service.storage.silence_store import SilenceStore
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
        silent: SilenceStore,
        groups: GroupStore,
        policies: StreamPolicies,
        clock: Clock,
        metrics: Metrics,
        settings: Settings,
    ) -> None:
        self._readiness = readiness
        self._store = store
        self._silent = silent
        self._group_store = groups
        self._policies = policies
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
        self._open = (0, 0)

    async def exposition(self) -> bytes:
        """The text that Prometheus scrapes. While Redis is away no stream is named, and `gatewatch_store_up` is 0."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        await asyncio.shield(self._looking)
        return self._metrics.exposition()

    async def _look(self) -> None:
        try:
            await self._readiness.look()
            tenants = self._store.keys.tenants
            silent = sum([await self._silent.count_open(tenant) for tenant in tenants])
            found = (await self._store.open_anomalies(self._within_s, 0)).count, silent
            self._metrics.streams.set(sum([await self._store.count_streams(tenant) for tenant in tenants]))
            since = self._clock.unix_ms() / 1000 - self._within_s
            at_bound = [await self._store.count_at_bound(tenant, since) for tenant in tenants]
            self._metrics.budget_bounds.set(sum(at_bound))
            self._metrics.windows_active.set(self._policies.active_windows(self._clock.unix_ms()))
            now = asyncio.get_running_loop().time()
            if now - self._at >= FRESH_S or found != self._open:
                self._at, self._open = now, found
                await self._look_at_open()
                self._metrics.named.channels = await self._chosen() if self._patterns else ()
        except StoreUnavailable as error:
            self._metrics.named.open = self._metrics.named.groups = self._metrics.named.channels = ()
            self._metrics.store_up.set(0)
            self._at = -math.inf
            log.warning("open anomalies not counted", error=str(error), cause=cause_of(error))
        finally:
            self._looking = None

    async def _look_at_open(self) -> None:
        most = RANKED if self._most_open else 0
        found = await self._store.open_anomalies(self._within_s, most)
        open_ones = [one for one in await self._latest(found.streams) if one[1].is_open]
        anomalies = await self._unmuted(open_ones)  # a stream may be muted, and send no reading that says so
        count = found.count - (len(open_ones) - len(anomalies))
        silences, silent = await self._silences(most)
        groups = await self._groups([*anomalies, *silences])
        shown = {(group.tenant, group.group) for group in groups}
        open_ = [
            _named(self._label(stream), incident, alert)
            for stream, incident in [*anomalies, *silences]
            for alert in incident.alerts
        ]
        named: dict[tuple[str, str, str, bool], OpenAnomaly] = {}
        streams: set[tuple[str, str]] = set()
        for one in sorted(open_, key=lambda one: (bool(one.group), -one.score, one.tenant, one.stream, one.channel)):
            stream_of = (one.tenant, one.stream)
            if stream_of in streams or len(streams) < self._most_open:
                streams.add(stream_of)
                named.setdefault((*stream_of, one.channel, one.reason == SILENT_REASON), one)
        grouped = {(self._label(s), s.name) for s, one in anomalies if (self._label(s), one.group) in shown}
        told = {(one.tenant, one.stream) for one in named.values() if one.reason != SILENT_REASON}
        self._metrics.named.open, self._metrics.named.groups = list(named.values()), groups
        self._metrics.open_anomalies.set(count)
        self._metrics.open_grouped.set(len(grouped))
        self._metrics.open_left_out.set(count - len(told | grouped))
        self._metrics.silent_streams.set(silent)

    async def _latest(self, streams: Sequence[StreamKey]) -> list[tuple[StreamKey, Incident]]:
        """The latest incidents of streams."""
        found: list[tuple[StreamKey, Incident]] = []
        for start in range(0, len(streams), SLICE):
            some = streams[start : start + SLICE]
            for stream, kept in zip(some, await self._store.latest_incidents(some), strict=True):
                incident = decode(kept)
                if incident is not None:
                    found.append((stream, incident))
        return found

    async def _silences(self, most: int) -> tuple[list[tuple[StreamKey, Incident]], int]:
        """Open silences that people are to be told of, up to about `most`; and how many there are in all."""
        found: list[tuple[StreamKey, Incident]] = []
        count = 0
        for tenant in self._store.keys.tenants:
            count += await self._silent.count_open(tenant)
            ids = await self._silent.open_ids(tenant, 2 * most // self._store.keys.buckets + 1) if most else []
            parsed = [(StreamKey(tenant, one[1]), one[0]) for id_ in ids if (one := number_and_stream(id_.decode()))]
            for start in range(0, len(parsed), SLICE):
                some = parsed[start : start + SLICE]
                for (stream, _), kept in zip(some, await self._store.incidents_of(some), strict=True):
                    silence = decode(kept)
                    if silence is not None and silence.is_open:
                        found.append((stream, silence))
        told = await self._unmuted(found)
        return told, count - (len(found) - len(told))

    async def _unmuted(self, found: Sequence[tuple[StreamKey, Incident]]) -> list[tuple[StreamKey, Incident]]:
        """The incidents of streams that people have not muted."""
        await self._policies.know({stream for stream, _ in found})
        return [one for one in found if not self._policies.is_muted(one[0])]

    async def _groups(self, found: Sequence[tuple[StreamKey, Incident]]) -> list[OpenGroup]:
        """The groups of open incidents: as many as streams may have a name, those with most streams."""
        members: dict[tuple[str, str], set[StreamKey]] = {}
        some: dict[tuple[str, str], tuple[StreamKey, Incident]] = {}
        for stream, incident in found:
            if incident.group:
                members.setdefault((stream.tenant, incident.group), set()).add(stream)
                key = (stream.tenant, incident.group)
                if key not in some or incident.onset_ms < some[key][1].onset_ms:
                    some[key] = (stream, incident)
        ranked = sorted(members, key=lambda key: (-len(members[key]), key))[: self._most_open]
        if not ranked:
            return []
        ids = await self._group_store.first_of(ranked)
        parsed = [number_and_stream(id_) for id_ in ids]
        known = [(StreamKey(tenant, one[1]), one[0]) for (tenant, _), one in zip(ranked, parsed, strict=True) if one]
        kept = iter(await self._store.incidents_of(known) if known else [])
        groups: list[OpenGroup] = []
        for key, one in zip(ranked, parsed, strict=True):
            first = decode(next(kept)) if one else None
            shown = first if first is not None and first.alerts else some[key][1]  # its number may be another's by now
            groups.append(_group(self._label(some[key][0]), shown, key[1], len(members[key])))
        return groups

    def _label(self, stream: StreamKey) -> str:
        """How series call a stream's tenant: not at all, if it is the service's own."""
        return "" if stream.tenant == self._tenant else stream.tenant

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
        incident.group,
        ",".join(f"{name}={value}" for name, value in sorted(incident.tags.items())),
        alert.score,
        alert.actual,
        alert.expected,
        alert.timestamp_ms / 1000,
    )


def _group(tenant: str, first: Incident, group: str, streams: int) -> OpenGroup:
    alert = first.alerts[0]
    return OpenGroup(
        group,
        first.tag,
        tenant,
        first.stream,
        alert.channel,
        alert.reason,
        alert.direction or "none",
        streams,
        first.onset_ms / 1000,
    )


def _number(value: np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None
