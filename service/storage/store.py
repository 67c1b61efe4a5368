"""StateStore over Redis: load, compare-and-set, history. Knows bytes and keys, nothing of what is in them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Final

from gatewatch.service.core.records import STREAM_PART
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.event import Event
from gatewatch.service.incidents.incident import decode
from gatewatch.service.storage import health
from gatewatch.service.storage.channel_counts import FORGET_CHANNELS
from gatewatch.service.storage.connection import ConnectionLost, raise_first
from gatewatch.service.storage.database import Database, pairs, text
from gatewatch.service.storage.incident_store import IncidentStore
from gatewatch.service.storage.keys import BUCKETS, PARTS, identity_in, tag_of
from gatewatch.service.storage.listing import page
from gatewatch.service.storage.open_anomalies import Open, open_anomalies, streams_like
from gatewatch.service.storage.record_cache import RecordCache
from gatewatch.service.storage.takeovers import KEPT_CLAIMS, LOOK, TAKE_OVER
from gatewatch.service.storage.unit_of_work import UnitOfWork

if TYPE_CHECKING:
    from gatewatch.service.observability.traces import Traces

RECORD_CACHE_BYTES = 64 * 2**20

UNTOLD: Final = 10_000
"""Alerts that may wait to be told; of more, the oldest of their bucket are dropped."""

_CLAIM: Final = b"""
local taken = {}
for at = 2, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[at])
  if score and tonumber(score) == tonumber(ARGV[at + 1]) then
    redis.call('ZADD', KEYS[1], ARGV[1], ARGV[at])
    taken[#taken + 1] = ARGV[at]
  end
end
return taken"""


class StateStore(Database):
    """The states of streams in Redis; the core's Store. What is listed, counted or told is one tenant's."""

    def __init__(
        self,
        url: str,
        tenant: str,
        timeout_ms: int,
        record_cache_bytes: int = RECORD_CACHE_BYTES,
        buckets: int = BUCKETS,
        replicas: int = 0,
        now: Callable[[], float] = time.time,
        traces: Traces | None = None,
    ) -> None:
        """Raises ValueError when `url` is not a Redis URL; connects with the first command.

        Args:
            buckets: of a Redis that has none yet.
            replicas: how many must have what is saved before it is answered.
            now: Unix seconds.
            traces: makes a span of each unit of work; None for none.
        """
        super().__init__(url, tenant, timeout_ms, buckets, replicas)
        self._now = now
        self._traces = traces
        self._epoch: bytes | None = None
        self.record_cache = RecordCache[bytes](record_cache_bytes)
        self.incidents = IncidentStore(self)

    def seeds(self, streams: Sequence[StreamKey]) -> list[int]:
        """Where the checksums of the streams' records start."""
        return [self.keys[stream].seed for stream in streams]

    async def load(self, streams: Sequence[StreamKey]) -> list[bytes | None]:
        """The streams' records as bytes, None for a stream without one. One round trip."""
        async with self.within(f"load {len(streams)} states"):
            records = await self.values([key.record for key in self.keys.of(streams)])
            if self.moving and None in records:
                missing = [stream for stream, record in zip(streams, records, strict=True) if record is None]
                if await self.move(missing):
                    records = await self.values([key.record for key in self.keys.of(streams)])
            return records

    async def load_histories(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """The streams' history rings as bytes, empty for a stream without one. One round trip.

        Repeats are answered from them, and so are readings whose save was not answered for want of replicas: what is
        read here is waited for as what is saved.
        """
        rings = await self._load_parts(streams, "readings")
        await self.replicated([key.record for key in self.keys.of(streams)])
        return rings

    async def record_heads(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """The stream part of each record, not checked; fewer bytes where there is none. One round trip."""
        last = b"%d" % (STREAM_PART.itemsize - 1)
        async with self.within(f"look at {len(streams)} states"):
            found = await self.ask_each([b"GETRANGE", self.keys.record(stream), b"0", last] for stream in streams)
        return [head if isinstance(head, bytes) else b"" for head in found]

    async def history_pieces(self, streams: Sequence[StreamKey], places: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes from first to last of a place of each stream's history, fewer where it ends. One round trip."""
        async with self.within(f"look at {len(streams)} histories"):
            found = await self.ask_each(
                [b"GETRANGE", key.history, b"%d" % first, b"%d" % last]
                for key, (first, last) in zip(self.keys.of(streams), places, strict=True)
            )
        return [piece if isinstance(piece, bytes) else b"" for piece in found]

    async def history_numbers(
        self, streams: Sequence[StreamKey], places: Sequence[tuple[int, int]]
    ) -> list[int | None]:
        """The number that stands at a place of each stream's history, None where nothing does. One round trip."""
        found = await self.history_pieces(streams, places)
        return [int.from_bytes(n, "little") if len(n) == 8 else None for n in found]

    async def load_old_histories(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """The histories that versions before record format 4 kept, empty where there is none. One round trip."""
        return await self._load_parts(streams, "history")

    async def drop_old_histories(self, streams: Sequence[StreamKey]) -> None:
        """Forget the histories of versions before record format 4."""
        async with self.within(f"drop {len(streams)} old histories"):
            await self._in_all([b"DEL", self.keys.part(stream, "history")] for stream in streams)

    async def load_settings(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """What was saved as the streams' settings, empty for a stream without any. One round trip."""
        return await self._load_parts(streams, "settings")

    async def load_earlier(self, streams: Sequence[StreamKey]) -> list[list[bytes]]:
        """The two earlier records of streams with a reorder window, empty where there is none. One round trip."""
        loaded = await self._load_parts(streams, "earlier:0", "earlier:1")
        return [loaded[at : at + 2] for at in range(0, len(loaded), 2)]

    async def _load_parts(self, streams: Sequence[StreamKey], *parts: str) -> list[bytes]:
        async with self.within(f"load {' and '.join(parts)} of {len(streams)} streams"):
            keys = [self.keys.part(stream, part) for stream in streams for part in parts]
            return [value or b"" for value in await self.values(keys)]

    async def load_whole(self, stream: StreamKey) -> list[bytes]:
        """A stream's record, history, both earlier records and settings as they are at one moment; b"" for none."""
        return await self._load_parts([stream], "state", "readings", "earlier:0", "earlier:1", "settings")

    async def save_settings(self, stream: StreamKey, settings: bytes) -> None:
        """Keep a stream's settings, for the day its record is lost."""
        async with self.within("save settings"):
            await self.ask_one(b"SET", self.keys.part(stream, "settings"), settings)
        await self.replicated([self.keys[stream].record])

    async def quarantine(self, stream: StreamKey, record: bytes) -> None:
        """Keep a copy of a record that cannot be read, for a look later; the last one of a stream stays."""
        async with self.within("quarantine a record"):
            await self.ask_one(b"SET", self.keys.part(stream, "quarantine"), record)

    async def delete(self, stream: StreamKey) -> bool:
        """Forget a stream; says whether there was anything of it."""
        async with self.within("delete a stream"):
            key, known = self.keys[stream], False
            self.record_cache.forget((key.record,))
            self.listed.forget(key)
            if self.moving:
                await self.move([stream])
            ended = await self.ends_of(stream)
            transaction = (
                [b"UNWATCH"],  # of what a batch watched on this connection and did not save
                [b"MULTI"],
                [b"EVAL", FORGET_CHANNELS, b"2", key.record, self.keys.channels(key.sets)],
                [b"DEL", *(self.keys.part(stream, what) for what in PARTS)],
                [b"ZREM", key.sets.open, key.member],
                [b"ZREM", key.sets.streams, key.member],
                [b"ZREM", self.keys.bounds(key.sets), key.member],
                [b"ZADD", self.keys.due(tag_of(key.record)), b"XX", b"0", identity_in(key.record)],  # to be forgotten
                [b"HDEL", self.keys.unused(key.sets), key.member],
                *([b"ZADD", self.keys.outbox(tag_of(key.record)), *event.queued] for event in ended),
                [b"EXEC"],
            )
            try:
                replies = await self.ask(*transaction, twice=False)
            except ConnectionLost:  # it may be gone already, and then it was there
                replies, known = await self.ask(*transaction, twice=False), True
            raise_first(replies)
            raise_first(replies[-1])
        await self.replicated([key.record])
        return known or bool(replies[-1][1])

    async def ends_of(self, stream: StreamKey) -> list[Event]:
        """The ends of a stream's incidents for those who were told that they are open."""
        if not self.tells:
            return []
        at_ms, found = round(1000 * self._now()), map(decode, (await self.incidents.all_of(stream)).values())
        ended = [one.n for one in found if one is not None and one.is_waited_for]
        return [Event("ended", at_ms, stream.tenant, n, stream.name) for n in ended]

    @contextlib.asynccontextmanager
    async def begin(self, streams: Sequence[StreamKey], cached: bool = False) -> AsyncIterator[UnitOfWork]:
        """Load the records of streams, each named once.

        With `cached`, records that this process saved last are not waited for; see UnitOfWork.
        """
        await self.know_buckets()
        async with self.node.connection() as connection:
            unit = UnitOfWork(self, connection, self.record_cache, streams, cached)
            with self._traced(streams):
                try:
                    await unit.load()
                    yield unit
                except BaseException:
                    unit.forget()
                    raise

    def _traced(self, streams: Sequence[StreamKey]) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._traces is None else self._traces.unit_of_work(len(streams))

    async def count_streams(self, tenant: str) -> int:
        """How many streams a tenant has."""
        async with self.within("count streams"):
            return sum(await self._in_all([b"ZCARD", key] for key in self._lists(tenant)))

    async def count_at_bound(self, tenant: str, since: float) -> int:
        """How many of a tenant's streams that sent since a Unix time have a budget loop at a bound."""
        begin = b"%.3f" % since
        async with self.within("count streams at a bound"):
            found = await self._in_all(
                [b"ZCOUNT", self.keys.bounds(sets), begin, b"+inf"] for sets in self.keys.sets_of(tenant)
            )
        return sum(map(int, found))

    async def count_channels(self, tenant: str) -> int:
        """How many channels all streams of a tenant have, as far as they were counted."""
        async with self.within("count channels"):
            found = await self._in_all([b"GET", self.keys.channels(sets)] for sets in self.keys.sets_of(tenant))
        return sum(int(count) for count in found if count and count.isdigit())

    async def list_streams(self, tenant: str, after: str, most: int) -> list[str]:
        """Up to `most` names of a tenant's streams in alphabetical order, those that come behind `after`."""

        async def fetch(parts: Sequence[tuple[bytes, bytes, int]]) -> list[list[bytes]]:
            found: list[list[bytes]] = await self._in_all(
                [b"ZRANGEBYLEX", key, b"(" + last if last else b"-", b"+", b"LIMIT", b"0", b"%d" % count]
                for key, last, count in parts
            )
            return found

        async with self.within("list streams"):
            return [name.decode() for name in await page(self._lists(tenant), after.encode(), most, fetch)]

    def _lists(self, tenant: str) -> list[bytes]:
        """The keys of all lists of a tenant's streams."""
        old = [self._old.streams] if self.moving and tenant == self.tenant else []
        return [*(sets.streams for sets in self.keys.sets_of(tenant)), *old]

    async def open_anomalies(self, within_s: float, most: int) -> Open:
        """What is open, of streams that sent a reading within the last `within_s` seconds; see open_anomalies.py."""
        return await open_anomalies(self, self._now() - within_s, most)

    async def streams_like(self, pattern: str, most: int) -> tuple[list[StreamKey], int]:
        """Up to `most` streams that a pattern means, and how many there are; see open_anomalies.py."""
        return await streams_like(self, pattern, most)

    async def latest_incidents(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """The latest incident of each stream as it is kept, b"" where it has none. One round trip."""
        return await self.incidents.latest(streams)

    async def pending_incidents(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """What may become an incident of each stream, as it is kept; b"" where nothing may. One round trip."""
        return await self.incidents.pending(streams)

    async def incidents_of(self, incidents: Sequence[tuple[StreamKey, int]]) -> list[bytes]:
        """Incidents by stream and number, as they are kept; b"" where there is none. One round trip."""
        return [one.incident for one in await self.incidents.find(incidents)]

    async def untold(self) -> list[tuple[bytes, float]]:
        """Alerts that were saved and not yet taken off as told, oldest first, and the time that stands beside each."""
        async with self.within("read alerts"):
            keys = [sets.alerts for sets in self.keys.sets]
            most = max(100, UNTOLD // len(keys))
            await self._in_all([b"ZREMRANGEBYRANK", key, b"0", b"%d" % (-most - 1)] for key in keys)
            found = await self._in_all([b"ZRANGE", key, b"0", b"99", b"WITHSCORES"] for key in keys)
        alerts = []
        for key, members in zip(keys, found, strict=True):
            for alert, at in pairs(members):
                self.alert_keys[alert] = key
                alerts.append((alert, float(at)))
        return sorted(alerts, key=lambda one: one[1])[:100]

    async def claim(self, alerts: Sequence[tuple[bytes, float]]) -> list[bytes]:
        """Those of some alerts that nobody else took over meanwhile; the caller tells them. They have a new time."""
        now, taken = b"%.3f" % self._now(), list[bytes]()
        async with self.within("take over alerts"):
            of_key: dict[bytes, list[bytes]] = {}
            for alert, at in alerts:
                for key in self._keys_of_alert(alert):
                    of_key.setdefault(key, []).extend((alert, b"%.3f" % at))
            for claimed in await self._in_all(
                [b"EVAL", _CLAIM, b"1", key, now, *arguments] for key, arguments in of_key.items()
            ):
                taken += claimed
        return taken

    async def told(self, alerts: Sequence[bytes]) -> None:
        """Take alerts off: they were told."""
        async with self.within("take off alerts"):
            of_key: dict[bytes, list[bytes]] = {}
            for alert in alerts:
                for key in self._keys_of_alert(alert):
                    of_key.setdefault(key, []).append(alert)
            await self._in_all([b"ZREM", key, *members] for key, members in of_key.items())
        for alert in alerts:
            self.alert_keys.pop(alert, None)

    async def try_reading(self) -> bool:
        """Do what a reading does, with a key of nobody's; see health.try_reading."""
        return await health.try_reading(self, self._now())

    async def check(self, strict: bool) -> list[str]:
        """Ask Redis whether it keeps states; see health.check."""
        return await health.check(self, strict)

    async def claim_takeover(self, service: str, model: str) -> tuple[int, int, str]:
        """The number of a service with a model, the highest number, and its model; see core/takeover.py."""
        async with self.within("claim the streams"):
            number, highest, holder = await self.ask_one(
                b"EVAL", TAKE_OVER, b"1", self.keys.takeover, service.encode(), model.encode(), b"%d" % KEPT_CLAIMS
            )
        return int(number), int(highest), text(holder)

    async def takeover(self, service: str, number: int, model: str) -> tuple[int, str, str]:
        """The highest number, its model, and who took it; at least this one: Redis may have forgotten it.

        It may have forgotten the number of buckets as well, or been given back streams of the version before.
        """
        async with self.within("look for a takeover"):
            await self.begin_keys()
            highest, holder, taker = await self.ask_one(
                b"EVAL", LOOK, b"1", self.keys.takeover, b"%d" % number, model.encode(), service.encode()
            )
        return int(highest), text(holder), text(taker)

    async def lost_everything(self) -> bool:
        """Whether Redis has forgotten all streams since the last time: emptied, or another server.

        Told by a random word that is written when there is none, and must stay.
        """
        async with self.within("check for lost states"):
            key = self.keys.epoch
            replies = await self.ask([b"SET", key, os.urandom(8).hex().encode(), b"NX"], [b"GET", key])
            raise_first(replies)
        before, self._epoch = self._epoch, replies[-1]
        return before not in (None, self._epoch)
