"""Nine ways to get it wrong. Each must be caught, or the simulation proves nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from gatewatch.service.core.readings import Batch
from gatewatch.service.core.records import Records
from gatewatch.service.core.sequencing import Decision, Places
from gatewatch.service.core.store import Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import StoreUnavailable
from tests.simulation.check import STEPPER
from tests.simulation.store import SimulatedStore, SimulatedUnit
from tests.simulation.world import Variant

LEASE_S: Final = 0.5
_COUNTED: Final = STEPPER.record.fields["readings"][1]  # type: ignore[index]


def _every_reading_is_new(batch: Batch, places: Places, heads: Records, now_ms: int) -> Decision:
    """No look at what was applied before."""
    return Decision(batch.timestamps_ms[places], np.ones(len(places), bool), {})


class _TwoStepsHeld(SimulatedUnit):
    """The state, compared and set; then the history."""

    async def send(self, writes: Writes) -> None:
        self.whole = writes
        await super().send(replace(writes, slots=[], anew=[]))

    async def saved(self) -> list[bool]:
        saved = await super().saved()
        if any(saved):
            rows = [row for row, ok in enumerate(saved) if ok]
            await self.store.start(lambda: self.store.redis.write_history(self.whole, rows), write=True)
        return saved


class _TwoSteps(SimulatedStore):
    def unit_of_work(self, streams: Sequence[StreamKey]) -> SimulatedUnit:
        return _TwoStepsHeld(self, streams)


class _BlindHeld(SimulatedUnit):
    """SET, whatever is there."""

    def begin(self, writes: Writes) -> asyncio.Future[Any]:
        redis = self.store.redis

        def run() -> bool:
            redis.write(writes, range(len(writes.streams)))
            return True

        return self.store.start(run, write=True)


class _Blind(SimulatedStore):
    def unit_of_work(self, streams: Sequence[StreamKey]) -> SimulatedUnit:
        return _BlindHeld(self, streams)


class _EarlyHeld(SimulatedUnit):
    """Answers as soon as the write is on its way."""

    async def saved(self) -> list[bool]:
        return [True] * len(self.writes.streams) if self.writes else []


class _Early(SimulatedStore):
    def unit_of_work(self, streams: Sequence[StreamKey]) -> SimulatedUnit:
        return _EarlyHeld(self, streams)


class _UncheckedHeld(SimulatedUnit):
    """Where it remembers what was there, it does not look whether it still is."""

    def begin(self, writes: Writes) -> asyncio.Future[Any]:
        if self.remembered is None:
            return super().begin(writes)
        redis, rows = self.store.redis, range(len(writes.streams))

        def run() -> list[bool]:
            redis.write(writes, rows)
            return [True] * len(rows)

        return self.store.start(run, write=True)


class _Unchecked(SimulatedStore):
    def unit_of_work(self, streams: Sequence[StreamKey]) -> SimulatedUnit:
        return _UncheckedHeld(self, streams)


class _UnconfirmedHeld(SimulatedUnit):
    """Watches what it remembers, and does not look whether that is still there."""

    async def confirmed(self, compared: bool) -> bool:
        await super().confirmed(compared)
        return True


class _Unconfirmed(SimulatedStore):
    def unit_of_work(self, streams: Sequence[StreamKey]) -> SimulatedUnit:
        return _UnconfirmedHeld(self, streams)


def _count(record: bytes | None) -> int:
    return int.from_bytes(record[_COUNTED : _COUNTED + 8], "little") if record else 0


class _CountedHeld(SimulatedUnit):
    """Compares how many readings were applied, not which."""

    def begin(self, writes: Writes) -> asyncio.Future[Any]:
        redis = self.store.redis
        counts = dict(zip(self.streams, map(_count, self.packed), strict=True))

        def is_same(record: bytes | None, row: int) -> bool:
            return _count(record) == counts[writes.streams[row]]

        return self.store.start(lambda: redis.save(writes, is_same), write=True)

    async def saved(self) -> list[bool]:
        if self.sent is None:
            return []
        saved: list[bool] = await self.sent
        return saved


class _Counted(SimulatedStore):
    def unit_of_work(self, streams: Sequence[StreamKey]) -> SimulatedUnit:
        return _CountedHeld(self, streams)


class _CachedHeld(_CountedHeld):
    """Keeps what it wrote, and reads only what it has not."""

    async def watch(self) -> None:
        cache = self.store.cache  # type: ignore[attr-defined]
        if all(stream in cache for stream in self.streams):
            self.packed = [cache[stream] for stream in self.streams]
        else:
            await super().watch()

    async def saved(self) -> list[bool]:
        cache = self.store.cache  # type: ignore[attr-defined]
        for stream in self.streams:
            cache.pop(stream, None)
        saved = await super().saved()
        if self.writes is not None:
            for stream, record, ok in zip(self.writes.streams, self.writes.records, saved, strict=True):
                if ok:
                    cache[stream] = record
        return saved


class _Cached(SimulatedStore):
    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.cache: dict[StreamKey, bytes] = {}

    def unit_of_work(self, streams: Sequence[StreamKey]) -> SimulatedUnit:
        return _CachedHeld(self, streams)


class _Leased(SimulatedStore):
    """Takes a lock that runs out, instead of comparing."""

    @contextlib.asynccontextmanager
    async def begin(self, streams: Sequence[StreamKey]) -> AsyncIterator[SimulatedUnit]:  # type: ignore[override]
        leases, time = self.redis.leases, self.loop.time

        def take() -> bool:
            if any(leases.get(stream, 0.0) > time() for stream in streams):
                return False
            leases.update(dict.fromkeys(streams, time() + LEASE_S))
            return True

        for _ in range(8):
            if await self.start(take):
                break
            await asyncio.sleep(self.faults.rng.random() * 0.1)
        else:
            raise StoreUnavailable("leased to another")
        until = time() + LEASE_S
        held = _BlindHeld(self, streams)
        await held.watch()
        yield held
        if time() < until:
            await self.start(lambda: [leases.pop(stream, None) for stream in streams])


BUGS: Final[dict[str, Variant]] = {
    "no dedupe of retries": Variant(decide=_every_reading_is_new),
    "state and history in two steps": Variant(store=_TwoSteps),
    "SET without a fence": Variant(store=_Blind),
    "answer before the write": Variant(store=_Early),
    "a remembered state, not compared": Variant(store=_Unchecked, remembers=True),
    "a remembered state, watched but not compared": Variant(store=_Unconfirmed, remembers=True),
    "cached state, fenced by a counter": Variant(store=_Cached),
    "delayed write, fenced by a counter": Variant(store=_Counted),
    "a lease instead of compare-and-set": Variant(store=_Leased),
}
