"""A worker's Store, over a network that loses, delays and repeats commands as the seed says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from gatewatch.service.core import records as state
from gatewatch.service.core.store import Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import StoreUnavailable
from gatewatch.service.storage.record_cache import RecordCache
from tests.simulation.faults import TIMEOUT_S, Faults
from tests.simulation.loop import VirtualLoop
from tests.simulation.redis import Key, Redis

FEW = 1
"""Streams of a batch that are compared by the script, so that batches of more than one are watched."""


class SimulatedStore:
    """One worker's Store, with a connection for every command."""

    def __init__(self, loop: VirtualLoop, redis: Redis, faults: Faults, crash_worker: Callable[[], None]) -> None:
        self.loop = loop
        self.redis = redis
        self.faults = faults
        self.gone = False
        self.remembered = RecordCache[StreamKey](0)
        self._crash_worker = crash_worker

    def start(self, run: Callable[[], Any], write: bool = False, starts: int | None = None) -> asyncio.Future[Any]:
        """Send a command; the future holds its answer, or that there was none.

        Args:
            run: what it does on the server.
            write: it may arrive late, or twice.
            starts: it belongs to a connection of this start of the server, and dies with it.
        """
        redis, loop, rng = self.redis, self.loop, self.faults.rng
        answer = loop.create_future()
        if self.gone:
            return answer
        kinds = ["request lost", "reply lost", "slow", "server crash", "worker crash"]
        if write:
            kinds += ["late", "twice", "server crash after", "worker crash after"]
        fault = self.faults.strike(
            *kinds, *(("late", "twice", "server crash after", "worker crash after") if write else ())
        )
        connection = redis.starts if starts is None else starts
        late = write and starts is None and fault in ("late", "twice")

        def arrive() -> None:
            if fault == "server crash":
                redis.crash()
            if not redis.up or (redis.starts != connection and not late):
                fail()
                return
            result = run()
            if fault == "server crash after":
                redis.crash()
                fail()
            elif fault == "worker crash after":
                self._crash_worker()
            elif fault not in ("reply lost", "late"):
                loop.call_later(delay(), succeed, result)

        def succeed(result: Any) -> None:
            if not answer.done():
                answer.set_result(result)

        def fail() -> None:
            if not answer.done():
                answer.set_exception(StoreUnavailable("simulated"))

        def delay() -> float:
            return rng.uniform(0.02, 0.12) if fault == "slow" else rng.random() * rng.random() * 0.02

        if fault == "worker crash":
            self._crash_worker()
            if rng.random() < 0.5:  # the command was not even sent
                return answer
        if fault == "late":
            loop.call_later(TIMEOUT_S + self.faults.long(), arrive)
        elif fault != "request lost":
            loop.call_later(delay(), arrive)
        if fault == "twice":
            loop.call_later(delay() + self.faults.long(), arrive)
        if fault in ("request lost", "reply lost", "late"):
            loop.call_later(TIMEOUT_S, fail)
        return answer

    def seeds(self, streams: Sequence[StreamKey]) -> list[int]:
        """Where the checksums of the streams' records start."""
        return [state.seed(stream.name.encode()) for stream in streams]

    async def _values(self, streams: Sequence[StreamKey], what: str) -> list[bytes | None]:
        values = self.redis.values
        answer: list[bytes | None] = await self.start(lambda: [values.get((stream, what)) for stream in streams])
        return answer

    async def load(self, streams: Sequence[StreamKey]) -> list[bytes | None]:
        """The streams' records."""
        return await self._values(streams, "state")

    async def load_histories(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """The streams' history rings."""
        return [ring or b"" for ring in await self._values(streams, "history")]

    async def history_numbers(
        self, streams: Sequence[StreamKey], places: Sequence[tuple[int, int]]
    ) -> list[int | None]:
        """The number that stands at a place of each stream's history."""
        found = [
            ring[first : last + 1]
            for ring, (first, last) in zip(await self.load_histories(streams), places, strict=True)
        ]
        return [int.from_bytes(n, "little") if len(n) == 8 else None for n in found]

    async def load_old_histories(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """No version before this one wrote here."""
        return [b""] * len(streams)

    async def drop_old_histories(self, streams: Sequence[StreamKey]) -> None:
        """There are none."""

    async def claim_takeover(self, service: str, model: str) -> tuple[int, int, str]:  # noqa: ARG002
        """All workers have one model."""
        return 1, 1, model

    async def load_settings(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """The streams' settings."""
        return [settings or b"" for settings in await self._values(streams, "settings")]

    async def load_earlier(self, streams: Sequence[StreamKey]) -> list[list[bytes]]:
        """The streams' two earlier records."""
        values = self.redis.values
        earlier: list[list[bytes]] = await self.start(
            lambda: [[values.get((stream, f"earlier:{slot}"), b"") for slot in (0, 1)] for stream in streams]
        )
        return earlier

    async def ping(self) -> bool:
        """Whether a PING is answered."""
        try:
            await self.start(lambda: None)
        except StoreUnavailable:
            return False
        return True

    async def count_streams(self, _: str) -> int:
        """Never too many."""
        return 0

    async def count_channels(self, _: str) -> int:
        """Never too many."""
        return 0

    async def quarantine(self, stream: StreamKey, record: bytes) -> None:
        """Keep a copy of a record that cannot be read."""
        await self.start(lambda: self.redis.put((stream, "quarantine"), record), write=True)

    async def save_settings(self, stream: StreamKey, settings: bytes) -> None:
        """Keep a stream's settings."""
        await self.start(lambda: self.redis.put((stream, "settings"), settings), write=True)

    async def takeover(self, service: str, number: int, model: str) -> tuple[int, str, str]:
        """All workers have one model."""
        return number, model, service

    async def latest_incidents(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """Nor are incidents."""
        return [b""] * len(streams)

    async def pending_incidents(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """Nor what may become one."""
        return [b""] * len(streams)

    async def incidents_of(self, incidents: Sequence[tuple[StreamKey, int]]) -> list[bytes]:
        """Nor are single ones."""
        return [b""] * len(incidents)

    async def untold(self) -> list[tuple[bytes, float]]:
        """Alerts are no part of this world."""
        return []

    async def told(self, alerts: Sequence[bytes]) -> None:
        """Nor is who was told."""

    async def claim(self, alerts: Sequence[tuple[bytes, float]]) -> list[bytes]:  # noqa: ARG002
        """Alerts are no part of this world."""
        return []

    async def save(self, writes: Writes) -> list[bool]:
        """Save each stream whose record still carries its fence."""
        saved: list[bool] = await self.start(lambda: self.redis.save(writes), write=True)
        return saved

    @contextlib.asynccontextmanager
    async def begin(self, streams: Sequence[StreamKey], cached: bool = False) -> AsyncIterator[SimulatedUnit]:
        """Load the records of streams, unless cached, and watch them until they are saved."""
        held = self.unit_of_work(streams)
        held.remembered = self.remembered.of(streams) if cached else None
        try:
            await held.watch()
            yield held
        except BaseException:
            self.remembered.forget(streams)
            raise

    def unit_of_work(self, streams: Sequence[StreamKey]) -> SimulatedUnit:
        """What `begin` hands out."""
        return SimulatedUnit(self, streams)


class SimulatedUnit:
    """A UnitOfWork: records that were loaded and are watched."""

    unsure = False
    failed: Mapping[StreamKey, StoreUnavailable] = {}

    def __init__(self, store: SimulatedStore, streams: Sequence[StreamKey]) -> None:
        self.store = store
        self.streams = streams
        self.packed: Sequence[bytes | None] = []
        self.remembered: list[bytes] | None = None
        self._coming: asyncio.Future[Any] | None = None
        self.writes: Writes | None = None
        self.sent: asyncio.Future[Any] | None = None
        self._watched: dict[Key, int] = {}
        self._starts = 0

    @property
    def from_cache(self) -> bool:
        """Whether the records are what this worker saved last."""
        return self.remembered is not None

    async def watch(self) -> None:
        """WATCH and MGET, in one go: waited for unless remembered, and not done for a few that are."""
        redis, known = self.store.redis, self.remembered
        if known is not None:
            self.packed = known
        if known is not None and len(known) <= FEW:
            return

        def run() -> list[bytes | None]:
            keys = [(stream, "state") for stream in self.streams]
            self._starts = redis.starts
            self._watched = {key: redis.version(key) for key in keys}
            return [redis.values.get(key) for key in keys]

        self._coming = self.store.start(run)
        if known is None:
            self.packed = await self._coming

    async def confirmed(self, compared: bool) -> bool:
        """Whether the records are what they were taken for."""
        if self.remembered is None:
            return True
        same = compared if self._coming is None else bool((await self._coming) == self.remembered)
        if not same:
            self.store.remembered.forget(self.streams)
        return same

    async def send(self, writes: Writes) -> None:
        """Send what is to be saved, perhaps after a pause of the whole process."""
        self.writes = writes
        store = self.store
        if store.faults.strike("pause"):
            await asyncio.sleep(store.faults.long())
        self.sent = self.begin(writes)

    def begin(self, writes: Writes) -> asyncio.Future[Any]:
        """Put the transaction, or the script that compares what was remembered, on its way."""
        redis, watched, before = self.store.redis, self._watched, self.remembered
        if before is not None and self._coming is None:
            return self.store.start(lambda: redis.save(writes, lambda record, row: record == before[row]), write=True)
        return self.store.start(lambda: redis.commit(writes, watched), write=True, starts=self._starts)

    async def saved(self) -> list[bool]:
        """Which of the streams sent were saved; when not all could be at once, one by one."""
        if self.writes is None or self.sent is None:
            return []
        saved: list[bool] = await self.sent
        if self.remembered is None or self._coming is not None:
            saved = [True] * len(self.writes.streams) if saved else await self.store.save(self.writes)
        self.store.remembered.note(self.writes.streams, self.writes.records, saved)
        return saved
