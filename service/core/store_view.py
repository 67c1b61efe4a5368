"""Views of a store: PastStore keeps what readings of the past come to, and tells nobody; TrialStore keeps nothing.

A core over a view scores as the one over the store itself: what a view leaves out is left out of what is saved, and no
line of the way of a reading knows of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from gatewatch.service.core.store import Store, UnitOfWork, Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import StoreUnavailable


class StoreView(Store):
    """A store as it is; each view changes some of it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @contextlib.asynccontextmanager
    async def begin(self, streams: Sequence[StreamKey], cached: bool = False) -> AsyncIterator[UnitOfWork]:
        """As of Store."""
        async with self._store.begin(streams, cached) as unit:
            yield unit

    def seeds(self, streams: Sequence[StreamKey]) -> list[int]:
        """As of Store."""
        return self._store.seeds(streams)

    async def ping(self) -> bool:
        """As of Store."""
        return await self._store.ping()

    async def load(self, streams: Sequence[StreamKey]) -> list[bytes | None]:
        """As of Store."""
        return await self._store.load(streams)

    async def load_histories(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """As of Store."""
        return await self._store.load_histories(streams)

    async def history_numbers(
        self, streams: Sequence[StreamKey], places: Sequence[tuple[int, int]]
    ) -> list[int | None]:
        """As of Store."""
        return await self._store.history_numbers(streams, places)

    async def load_old_histories(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """As of Store."""
        return await self._store.load_old_histories(streams)

    async def drop_old_histories(self, streams: Sequence[StreamKey]) -> None:
        """As of Store."""
        await self._store.drop_old_histories(streams)

    async def load_settings(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """As of Store."""
        return await self._store.load_settings(streams)

    async def save_settings(self, stream: StreamKey, settings: bytes) -> None:
        """As of Store."""
        await self._store.save_settings(stream, settings)

    async def load_earlier(self, streams: Sequence[StreamKey]) -> list[list[bytes]]:
        """As of Store."""
        return await self._store.load_earlier(streams)

    async def quarantine(self, stream: StreamKey, record: bytes) -> None:
        """As of Store."""
        await self._store.quarantine(stream, record)

    async def incidents_of(self, incidents: Sequence[tuple[StreamKey, int]]) -> list[bytes]:
        """As of Store."""
        return await self._store.incidents_of(incidents)

    async def count_streams(self, tenant: str) -> int:
        """As of Store."""
        return await self._store.count_streams(tenant)

    async def count_channels(self, tenant: str) -> int:
        """As of Store."""
        return await self._store.count_channels(tenant)

    async def latest_incidents(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """As of Store."""
        return await self._store.latest_incidents(streams)

    async def pending_incidents(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """As of Store."""
        return await self._store.pending_incidents(streams)

    async def untold(self) -> list[tuple[bytes, float]]:
        """As of Store."""
        return await self._store.untold()

    async def claim(self, alerts: Sequence[tuple[bytes, float]]) -> list[bytes]:
        """As of Store."""
        return await self._store.claim(alerts)

    async def told(self, alerts: Sequence[bytes]) -> None:
        """As of Store."""
        await self._store.told(alerts)

    async def claim_takeover(self, service: str, model: str) -> tuple[int, int, str]:
        """As of Store."""
        return await self._store.claim_takeover(service, model)

    async def takeover(self, service: str, number: int, model: str) -> tuple[int, str, str]:
        """As of Store."""
        return await self._store.takeover(service, number, model)


class PastStore(StoreView):
    """Keeps records and histories; no alert is told, and no incident begins. One that was open goes on, and ends."""

    @contextlib.asynccontextmanager
    async def begin(self, streams: Sequence[StreamKey], cached: bool = False) -> AsyncIterator[UnitOfWork]:
        """As of Store."""
        async with self._store.begin(streams, cached) as unit:
            yield _OfThePast(unit)


class _OfThePast(UnitOfWork):
    """A unit of work that saves no alert and no incident that begins."""

    def __init__(self, unit: UnitOfWork) -> None:
        self._unit = unit

    @property
    def packed(self) -> Sequence[bytes | None]:
        """As of UnitOfWork."""
        return self._unit.packed

    @property
    def from_cache(self) -> bool:
        """As of UnitOfWork."""
        return self._unit.from_cache

    @property
    def unsure(self) -> bool:
        """As of UnitOfWork."""
        return self._unit.unsure

    @property
    def failed(self) -> Mapping[StreamKey, StoreUnavailable]:
        """As of UnitOfWork."""
        return self._unit.failed

    async def confirmed(self, compared: bool) -> bool:
        """As of UnitOfWork."""
        return await self._unit.confirmed(compared)

    async def send(self, writes: Writes) -> None:
        """As of UnitOfWork; what is left out is taken out of `writes`, so that nobody tells of it either."""
        writes.alerts.clear()
        writes.opened = set()
        writes.incidents = [write for write in writes.incidents if not write.began]
        writes.pending.clear()
        await self._unit.send(writes)

    async def saved(self) -> list[bool]:
        """As of UnitOfWork."""
        return await self._unit.saved()


class TrialStore(StoreView):
    """Reads from a store, and keeps in memory whatever is saved, as long as it lives itself."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._records: dict[StreamKey, bytes] = {}
        self._pieces: dict[StreamKey, list[tuple[int, bytes]]] = {}
        self._begun: set[StreamKey] = set()  # whose histories are those of the pieces alone
        self._earlier: dict[tuple[StreamKey, int], bytes] = {}
        self._incidents: dict[StreamKey, bytes] = {}
        self._pending: dict[StreamKey, bytes] = {}

    @contextlib.asynccontextmanager
    async def begin(
        self,
        streams: Sequence[StreamKey],
        cached: bool = False,  # noqa: ARG002
    ) -> AsyncIterator[UnitOfWork]:
        """As of Store."""
        yield _Trial(self, await self.load(streams))

    def keep(self, writes: Writes) -> None:
        """Take in what was to be saved."""
        for row in writes.anew:
            self._pieces[writes.streams[row]] = []
            self._begun.add(writes.streams[row])
        for row, offset, piece in writes.slots:
            self._pieces.setdefault(writes.streams[row], []).append((offset, piece))
        for (row, slot), record in writes.earlier.items():
            self._earlier[writes.streams[row], slot] = record
        for write in writes.incidents:
            if write.n < 0:  # a silence stands beside the latest one
                continue
            self._incidents[writes.streams[write.row]] = write.incident
        self._pending.update((writes.streams[row], content) for row, content in writes.pending)
        self._records.update(zip(writes.streams, writes.records, strict=True))

    async def load(self, streams: Sequence[StreamKey]) -> list[bytes | None]:
        """As of Store."""
        others = [stream for stream in streams if stream not in self._records]
        found = dict(zip(others, await self._store.load(others) if others else (), strict=True))
        return [self._records.get(stream) or found[stream] for stream in streams]

    async def load_histories(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """As of Store."""
        others = [stream for stream in streams if stream not in self._begun]
        kept = dict(zip(others, await self._store.load_histories(others) if others else (), strict=True))
        return [self._with_pieces(stream, kept.get(stream, b"")) for stream in streams]

    async def history_numbers(
        self, streams: Sequence[StreamKey], places: Sequence[tuple[int, int]]
    ) -> list[int | None]:
        """As of Store."""
        if self._pieces.keys().isdisjoint(streams):
            return await self._store.history_numbers(streams, places)
        rings = zip(await self.load_histories(streams), places, strict=True)
        found = [ring[first : last + 1] for ring, (first, last) in rings]
        return [int.from_bytes(n, "little") if len(n) == 8 else None for n in found]

    async def load_earlier(self, streams: Sequence[StreamKey]) -> list[list[bytes]]:
        """As of Store."""
        return [
            [self._earlier.get((stream, slot), record) for slot, record in enumerate(kept)]
            for stream, kept in zip(streams, await self._store.load_earlier(streams), strict=True)
        ]

    async def latest_incidents(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """As of Store."""
        kept = zip(streams, await self._store.latest_incidents(streams), strict=True)
        return [self._incidents.get(stream, incident) for stream, incident in kept]

    async def pending_incidents(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """As of Store."""
        kept = zip(streams, await self._store.pending_incidents(streams), strict=True)
        return [self._pending.get(stream, pending) for stream, pending in kept]

    async def drop_old_histories(self, streams: Sequence[StreamKey]) -> None:
        """Nothing: they stay."""

    async def quarantine(self, stream: StreamKey, record: bytes) -> None:
        """Nothing: whoever sends in earnest does it."""

    def _with_pieces(self, stream: StreamKey, kept: bytes) -> bytes:
        if not (pieces := self._pieces.get(stream)):
            return kept
        ring = bytearray(kept)
        for offset, piece in pieces:
            if len(ring) < offset:
                ring += bytes(offset - len(ring))
            ring[offset : offset + len(piece)] = piece
        return bytes(ring)


class _Trial(UnitOfWork):
    """A unit of work of a TrialStore; nobody else writes there."""

    from_cache = False
    unsure = False
    failed: Mapping[StreamKey, StoreUnavailable] = {}

    def __init__(self, store: TrialStore, packed: Sequence[bytes | None]) -> None:
        self._store = store
        self._packed = packed
        self._saved = 0

    @property
    def packed(self) -> Sequence[bytes | None]:
        """As of UnitOfWork."""
        return self._packed

    async def confirmed(self, compared: bool) -> bool:  # noqa: ARG002
        """It is."""
        return True

    async def send(self, writes: Writes) -> None:
        """Keep it in memory."""
        self._store.keep(writes)
        self._saved = len(writes.streams)

    async def saved(self) -> list[bool]:
        """All."""
        return [True] * self._saved
