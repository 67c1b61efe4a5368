"""ClusterStore: StateStore over the nodes of a Redis Cluster, each bucket of streams on one of them.

What a batch causes is saved in one step a bucket, by save.lua, sent to all nodes at once: a WATCH is forgotten by the
first EXEC on its connection, so that it cannot guard the transactions of several slots. Where a node is in trouble its
streams fail, and only they.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final

import structlog

from gatewatch.service.core.records import FENCE
from gatewatch.service.core.store import Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import StoreUnavailable
from gatewatch.service.storage import encoder, health
from gatewatch.service.storage.addresses import address_of
from gatewatch.service.storage.cluster import Cluster, Part
from gatewatch.service.storage.cluster_unit import ClusterUnit
from gatewatch.service.storage.connection import raise_first
from gatewatch.service.storage.database import PING_S
from gatewatch.service.storage.errors import Away, Signs, trouble_of
from gatewatch.service.storage.keys import LAYOUT, Sets, StreamKeys, barrier_of, bucket_of, identity, tag_of
from gatewatch.service.storage.old_keys import STOP
from gatewatch.service.storage.store import StateStore

log = structlog.get_logger(__name__)

PATIENCE: Final = 1.4
"""Time-outs that a step over several nodes may take: one for a node that hangs, and what is done before and after."""

_KEYLESS: Final = frozenset((b"MULTI", b"EXEC", b"UNWATCH"))


def _key_of(command: Sequence[bytes]) -> bytes:
    return command[3] if command[0] in (b"EVAL", b"EVALSHA") else command[1]


class ClusterStore(StateStore):
    """The states of streams in a Redis Cluster."""

    def _connect(self, url: str) -> None:
        self.cluster = Cluster(address_of(url), self._timeout_s)
        self._timeout_s *= PATIENCE
        self._counts: dict[bytes, int] = {}
        self._takeover: tuple[int, str, str] | None = None

    async def ask(self, *commands: Sequence[bytes], twice: bool = True) -> list[Any]:
        """Send commands of one bucket at once; their replies, errors among them. Raises Away."""
        key = next(_key_of(command) for command in commands if command[0] not in _KEYLESS)
        whole = b"".join(map(encoder.packed, commands))
        (replies,) = await self.cluster.exchange([Part(key, whole, len(commands))], twice)
        if isinstance(replies, Exception):
            raise Away((tag_of(key),), replies)
        return replies

    async def ask_each(self, commands: Iterable[Sequence[bytes]]) -> list[Any]:
        """The replies, errors among them, to commands of different buckets. Raises Away where nodes do not reply."""
        keys, found = [], list[Any]()
        parts = []
        for command in commands:
            keys.append(_key_of(command))
            parts.append(Part(keys[-1], encoder.packed(command), 1))
        away: dict[bytes, Exception] = {}
        for key, replies in zip(keys, await self.cluster.exchange(parts), strict=True):
            if isinstance(replies, Exception):
                away[tag_of(key)] = replies
            else:
                found.append(replies[0])
        if away:
            raise Away(away, next(iter(away.values())))
        return found

    async def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What stands under keys, in one command a bucket. Raises Away."""
        places: dict[bytes, list[int]] = {}
        for at, key in enumerate(keys):
            places.setdefault(tag_of(key), []).append(at)
        replies = await self.ask_each([b"MGET", *(keys[at] for at in mine)] for mine in places.values())
        away = {tag: reply for tag, reply in zip(places, replies, strict=True) if isinstance(reply, Exception)}
        if away:
            raise Away(away, next(iter(away.values())))
        found: list[bytes | None] = [None] * len(keys)
        for mine, values in zip(places.values(), replies, strict=True):
            for at, value in zip(mine, values, strict=True):
                found[at] = value
        return found

    async def _wait_for_replicas(self, keys: Sequence[bytes]) -> None:
        barriers = {barrier_of(key) for key in keys}
        parts = [Part(key, encoder.packed([b"SET", key, b"1"]), 1) for key in barriers]
        away: dict[bytes, Exception] = {}
        for part, replies in zip(parts, await self.cluster.exchange(parts, after=self.wait), strict=True):
            try:
                if isinstance(replies, Exception):
                    raise replies
                raise_first(replies)
                self.check_wait(replies[1:])
            except Exception as error:
                away[tag_of(part.key)] = error
        if away:
            raise Away(away, next(iter(away.values())))

    async def begin_keys(self) -> None:
        """Ask the Cluster how many buckets its keys have. Raises StoreUnavailable if it holds keys without buckets."""
        raise_first(await self.ask([b"SET", LAYOUT, b"%d" % self._buckets, b"NX"]))
        (buckets,) = await self.ask([b"GET", LAYOUT])
        raise_first([buckets])
        (number,) = await self.ask([b"HGET", self._old.takeover, b"number"])
        if isinstance(number, bytes) and number.isdigit() and int(number) < STOP:
            raise StoreUnavailable(
                "this Redis Cluster holds streams of a version before Cluster was supported: let this version take "
                "them over on a single Redis first, and then move them to the Cluster"
            )
        self._know(int(buckets))

    @contextlib.asynccontextmanager
    async def begin(self, streams: Sequence[StreamKey], cached: bool = False) -> AsyncIterator[ClusterUnit]:  # type: ignore[override]
        """Load the records of streams, each named once; with `cached` not those that this process saved last.

        Raises:
            PartlyUnavailable: a node of some of them does not answer.
        """
        await self.know_buckets()
        unit = ClusterUnit(self, streams, cached)
        with self._traced(streams):
            try:
                await unit.load()
                yield unit
            except BaseException:
                unit.forget()
                raise

    async def save(self, writes: Writes, expected: Sequence[bytes] | None = None) -> list[bool]:
        """Save each stream whose record still carries its fence. Raises PartlyUnavailable."""
        async with self.within(f"save {len(writes.streams)} states"):
            saved, failed = await self.save_buckets(writes, self.keys.of(writes.streams), expected or writes.fences)
            if failed:
                raise Away(failed, next(iter(failed.values())))
        return saved

    async def save_buckets(
        self, writes: Writes, of: Sequence[StreamKeys], expected: Sequence[bytes]
    ) -> tuple[list[bool], dict[bytes, Exception]]:
        """Save streams bucket by bucket, all at once: which were saved; and the tags of buckets that could not be."""
        self.note_new(writes, of)
        split, parts = _split(writes, of), []
        for rows, some in split:
            keys = [of[row] for row in rows]
            whole, count = encoder.comparison(self.keys, some, keys, [expected[row] for row in rows])
            parts.append(Part(keys[0].record, whole, count))
        saved, failed = [False] * len(of), dict[bytes, Exception]()
        outcomes = await self.cluster.exchange(parts, after=self.wait)
        for (rows, _), part, replies in zip(split, parts, outcomes, strict=True):
            try:
                if isinstance(replies, Exception):
                    raise replies
                raise_first(replies)
                self.check_wait(replies[1:])
            except Exception as error:
                failed[tag_of(part.key)] = error
                continue
            for row, ok in zip(rows, await self.note_saved([of[row] for row in rows], replies[0]), strict=True):
                saved[row] = ok
        return saved, failed

    async def count_streams(self, tenant: str) -> int:
        """How many streams a tenant has; of a node that does not answer, as many as there were."""
        async with self.within("count streams"):
            keys = [sets.streams for sets in self.keys.sets_of(tenant)]
            parts = [Part(key, encoder.packed([b"ZCARD", key]), 1) for key in keys]
            outcomes = await self.cluster.exchange(parts)
            for key, replies in zip(keys, outcomes, strict=True):
                if not isinstance(replies, Exception):
                    raise_first(replies)
                    self._counts[key] = int(replies[0])
            if all(isinstance(replies, Exception) for replies in outcomes):
                raise Away([tag_of(key) for key in keys], next(o for o in outcomes if isinstance(o, Exception)))
            return sum(self._counts.values())

    async def takeover(self, service: str, number: int, model: str) -> tuple[int, str, str]:
        """The highest number, its model, and who took it; what they were last, while their node does not answer."""
        try:
            self._takeover = await super().takeover(service, number, model)
        except StoreUnavailable:
            if self._takeover is None or self._takeover[0] < number:
                raise
        return self._takeover

    async def lost_everything(self) -> bool:
        """Whether the Cluster has forgotten all streams; no, while the node of the word does not answer."""
        try:
            return await super().lost_everything()
        except StoreUnavailable:
            return False

    @property
    def signs(self) -> Signs:
        """Whether any node answers anything."""
        return self.cluster

    async def ping(self) -> bool:
        """Whether a node answers a PING at once."""
        try:
            async with asyncio.timeout(PING_S):
                masters = await self.cluster.masters()
                pings = [Part(b"", encoder.packed([b"PING"]), 1)]
                outcomes = await asyncio.gather(*(self.cluster.ask(member, pings) for member in masters))
        except Exception:
            return False
        return any(not isinstance(outcome[0], Exception) for outcome in outcomes)

    async def try_reading(self) -> bool:
        """Do on each node what a reading does. Raises StoreUnavailable if none takes one."""
        async with self.within("try what a reading needs"):
            streams = await self._probes()
            record = bytes(FENCE.stop)
            writes = Writes(self._now(), streams, [record[FENCE]] * len(streams), [record] * len(streams))
            saved, failed = await self.save_buckets(writes, self.keys.of(streams), writes.fences)
            if len(failed) == len(streams):
                raise Away(failed, next(iter(failed.values())))
            del saved
            keys = [key for sets in self.keys.sets for key in sets]
            outcomes = await self.cluster.exchange([Part(key, encoder.packed([b"ZCARD", key]), 1) for key in keys])
            return not any(
                isinstance(reply, Exception) and "WRONGTYPE" in str(reply)
                for replies in outcomes
                if not isinstance(replies, Exception)
                for reply in replies
            )

    async def _probes(self) -> list[StreamKey]:
        """A stream of nobody's on each node, in one of its buckets."""
        chosen: dict[Any, StreamKey] = {}
        masters, number = await self.cluster.masters(), 0
        nodes = {await self.cluster.member_of(sets.streams) for sets in self.keys.sets}
        while len(chosen) < len(nodes.intersection(masters)):
            stream = StreamKey(self.tenant, f"\0{number}")  # no stream has this name
            sets: Sets = self.keys.sets_of(self.tenant)[bucket_of(identity(stream), self.keys.buckets)]
            chosen.setdefault(await self.cluster.member_of(sets.streams), stream)
            number += 1
        return list(chosen.values())

    async def check(self, strict: bool) -> list[str]:
        """Ask each node whether it keeps states, see health.check; nodes in trouble are warnings."""
        warnings: list[str] = []
        fullest: tuple[int, int] | None = None
        async with self.within("check Redis"):
            masters = await self.cluster.masters()
            for member in masters:
                commands = health.commands(strict)
                part = Part(b"", b"".join(map(encoder.packed, commands)), len(commands))
                (replies,) = await self.cluster.ask(member, [part])
                if isinstance(replies, Exception):
                    warnings.append(
                        f"the node {member.name} of the Redis Cluster is in trouble, and its streams get 503: "
                        f"{trouble_of(replies)}"
                    )
                else:
                    used = health.memory_of(replies[0])
                    fullest = max(
                        filter(None, (fullest, used)), key=lambda pair: pair[0] / max(pair[1], 1), default=None
                    )
                    warnings += [f"node {member.name}: {line}" for line in health.judge(replies, strict)]
        self.memory = fullest
        return warnings + ([self.other_buckets()] if self.other_buckets() else [])

    async def drop_idle(self) -> None:
        """Nothing: a node in trouble loses its own connections."""

    async def close(self) -> None:
        """Close all connections."""
        await self.cluster.close()

    def trouble_with(self, streams: Sequence[StreamKey], failed: Mapping[bytes, Exception]) -> dict[StreamKey, Any]:
        """What to say of streams whose buckets could not be saved."""
        return {
            stream: StoreUnavailable(
                f"could not save the state of {stream.name}: {trouble_of(failed[tag])}; nothing is lost, send the same "
                "request again"
            )
            for stream in streams
            if (tag := tag_of(self.keys[stream].record)) in failed
        }


def _split(writes: Writes, of: Sequence[StreamKeys]) -> list[tuple[list[int], Writes]]:
    """What is to be saved of each bucket, and the rows of its streams; all in one pass."""
    split: dict[bytes, tuple[list[int], Writes]] = {}
    places: list[tuple[Writes, int]] = []
    for row, key in enumerate(of):
        rows, some = split.setdefault(key.sets.streams, ([], Writes(writes.at)))
        places.append((some, len(rows)))
        rows.append(row)
        some.streams.append(writes.streams[row])
        some.fences.append(writes.fences[row])
        some.records.append(writes.records[row])
    for row, offset, piece in writes.slots:
        some, at = places[row]
        some.slots.append((at, offset, piece))
    for row in writes.anew:
        some, at = places[row]
        some.anew.append(at)
    for (row, slot), kept in writes.earlier.items():
        some, at = places[row]
        some.earlier[at, slot] = kept
    for row, alert in writes.alerts:
        some, at = places[row]
        some.alerts.append((at, alert))
    for row in writes.unlisted:
        some, at = places[row]
        some.unlisted.append(at)
    for row in writes.unwatched:
        some, at = places[row]
        some.unwatched.append(at)
    for write in writes.incidents:
        some, at = places[write.row]
        some.incidents.append(write._replace(row=at))
    for row, content in writes.pending:
        some, at = places[row]
        some.pending.append((at, content))
    for left in writes.incidents_left:
        some, at = places[left.row]
        some.incidents_left.append(left._replace(row=at))
    for row, at_bound in writes.bounds.items():
        some, at = places[row]
        some.bounds[at] = at_bound
    for row, more in writes.channels.items():
        some, at = places[row]
        some.channels[at] = more
    for row, settings in writes.settings.items():
        some, at = places[row]
        some.settings[at] = settings
    for _, some in split.values():
        some.opened, some.closed = writes.opened, writes.closed  # of which those count that are among its streams
        some.tells = writes.tells
    return list(split.values())


def store_of(url: str, *arguments: Any, **options: Any) -> StateStore:
    """The store for a URL; see StateStore for the other arguments. Raises ValueError when it is no Redis URL."""
    kind = ClusterStore if address_of(url).kind == "cluster" else StateStore
    return kind(url, *arguments, **options)
