"""IncidentStore: incidents in Redis, and what people said of them.

    STREAM:incidents            hash: `latest` to the stream's latest incident, `number` to its number; the number of
                                each one before to that one, and of each silence, below 0, to that; `pending` to what
                                may become one, see incidents/ruled.py
    STREAM:incident:N:before    the stream's history when the incident began, and
    STREAM:incident:N:after     when it ended
    STREAM:incident:N:state     what it is proved from, see incidents/began.py
    STREAM:incident-words       hash: number to what people said

An incident is written with the reading that changed it; see encoder.py. What people say is written by itself, so that
nobody who answers an alert waits for readings, or overwrites them. Two sorted sets a bucket list the incidents: by
their beginning, and by their last change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import Contended
from gatewatch.service.incidents.incident import number_and_stream
from gatewatch.service.storage.connection import raise_first
from gatewatch.service.storage.database import Database, pairs
from gatewatch.service.storage.keys import INCIDENT_PARTS, LATEST, NUMBER, PENDING, Sets

ATTEMPTS: Final = 20
"""To write what somebody says while others write as well."""

TRIMMED: Final = 100
"""Incidents forgotten at a time, of one bucket."""

_SAY: Final = b"""
if redis.call('HGET', KEYS[1], ARGV[1]) ~= (ARGV[2] ~= '' and ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[5])
return 1"""


class Found(NamedTuple):
    """An incident as it is kept, and what people said of it; b"" where nothing is there."""

    incident: bytes
    words: bytes


class IncidentStore:
    """The incidents of streams, whosever they are."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, incidents: Sequence[tuple[StreamKey, int]]) -> list[Found]:
        """Incidents by stream and number. One round trip."""
        keys = self._database.keys
        async with self._database.within(f"load {len(incidents)} incidents"):
            replies = await self._database.ask_each(
                command
                for stream, n in incidents
                for command in (
                    [b"HMGET", keys.part(stream, "incidents"), b"%d" % n, NUMBER, LATEST],
                    [b"HGET", keys.part(stream, "incident-words"), b"%d" % n],
                )
            )
            raise_first(replies)
        found = []
        for at, (_, n) in enumerate(incidents):
            (past, number, latest), words = replies[2 * at : 2 * at + 2]
            found.append(Found(past or (latest if number == b"%d" % n else b"") or b"", words or b""))
        return found

    @property
    def tenants(self) -> list[str]:
        """The service's own, and those whose streams this process has seen."""
        return self._database.keys.tenants

    async def latest(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """The latest incident of each stream, b"" where it has none, or what is none of ours. One round trip."""
        return await self._each(streams, LATEST)

    async def pending(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """What may become an incident of each stream, b"" where nothing may. One round trip."""
        return await self._each(streams, PENDING)

    async def _each(self, streams: Sequence[StreamKey], field: bytes) -> list[bytes]:
        keys = self._database.keys
        async with self._database.within(f"load the incidents of {len(streams)} streams"):
            replies = await self._database.ask_each([b"HGET", keys.part(one, "incidents"), field] for one in streams)
            raise_first([reply for reply in replies if "WRONGTYPE" not in str(reply)])  # foreign: fails no reading
        return [reply if isinstance(reply, bytes) else b"" for reply in replies]

    async def all_of(self, stream: StreamKey) -> dict[int, bytes]:
        """All incidents of a stream that are kept, by number."""
        async with self._database.within("load the incidents of a stream"):
            found = await self._database.ask_one(b"HGETALL", self._database.keys.part(stream, "incidents"))
        fields = dict(pairs(list(found.items()) if isinstance(found, dict) else found))
        latest, number = fields.pop(LATEST, None), fields.pop(NUMBER, None)
        kept = {int(n): content for n, content in fields.items() if n.removeprefix(b"-").isdigit()}
        return kept | ({int(number): latest} if latest is not None and number is not None else {})

    async def histories(self, stream: StreamKey, n: int) -> list[bytes]:
        """The rings kept at the beginning and at the end of an incident, and the stream's own now; b"" for none."""
        keys = self._database.keys
        names = [keys.incident(stream, n, "before"), keys.incident(stream, n, "after"), keys[stream].history]
        async with self._database.within("load the readings of an incident"):
            return [ring or b"" for ring in await self._database.values(names)]

    async def began(self, stream: StreamKey, n: int) -> bytes:
        """What an incident is proved from, b"" where that is not kept."""
        async with self._database.within("load what an incident is proved from"):
            (kept,) = await self._database.values([self._database.keys.incident(stream, n, "state")])
        return kept or b""

    async def listed(
        self, tenant: str, newest_ms: int, oldest_ms: int, most: int, changed: bool = False
    ) -> list[tuple[bytes, int]]:
        """Ids of a tenant's incidents and when they began (or last changed), from one time back to another.

        As many of each bucket are asked for as are wanted in all, so that none is missed.
        """
        async with self._database.within("list incidents"):
            replies = await self._database.ask_each(
                [
                    b"ZREVRANGEBYSCORE", one.changes if changed else one.incidents, b"%d" % newest_ms,
                    b"%d" % oldest_ms, b"WITHSCORES", b"LIMIT", b"0", b"%d" % most,
                ]
                for one in self._database.keys.sets_of(tenant)
            )  # fmt: skip
            raise_first(replies)
        found = [(bytes(id_), int(float(at))) for reply in replies for id_, at in pairs(reply)]
        return sorted(found, key=lambda one: (-one[1], one[0]))[:most]

    async def say(
        self, stream: StreamKey, n: int, change: Callable[[bytes], bytes], incident_id: bytes, now_ms: int
    ) -> bytes:
        """Change what people said of an incident, and give it back; `change` is called again if others say something.

        Raises:
            Contended: others kept saying things.
        """
        keys = self._database.keys
        words, changes = keys.part(stream, "incident-words"), keys[stream].sets.changes
        for _ in range(ATTEMPTS):
            async with self._database.within("keep what was said"):
                before = await self._database.ask_one(b"HGET", words, b"%d" % n) or b""
                after = change(before)
                done = await self._database.ask_one(
                    b"EVAL", _SAY, b"2", words, changes, b"%d" % n, before, after, b"%d" % now_ms, incident_id
                )
            if done:
                await self._database.replicated([words])
                return after
        raise Contended(f"others keep answering the incident {n} of {stream.name}; send the request again")

    async def trim(self, tenant: str, before_ms: int, most: int) -> int:
        """Forget a tenant's incidents that began before a time, and the oldest beyond a number; how many were.

        At most TRIMMED at a time: whoever calls again goes on.
        """
        async with self._database.within("forget old incidents"):
            sets = self._database.keys.sets_of(tenant)
            replies = await self._database.ask_each(
                command
                for one in sets
                for command in (
                    [b"ZCARD", one.incidents],
                    [b"ZRANGE", one.incidents, b"0", b"%d" % (TRIMMED - 1), b"WITHSCORES"],
                )
            )
            raise_first(replies)
            beyond = sum(replies[::2]) - most
            oldest = sorted(
                (int(float(at)), id_, one) for one, of in zip(sets, replies[1::2], strict=True) for id_, at in pairs(of)
            )
            old = [one for rank, one in enumerate(oldest[:TRIMMED]) if one[0] < before_ms or rank < beyond]
            commands: list[Sequence[bytes]] = []
            for _, id_, one in old:
                commands += self._forget(tenant, one, id_)
            if commands:
                raise_first(await self._database.ask_each(commands))
        return len(old)

    def _forget(self, tenant: str, sets: Sets, incident_id: bytes) -> list[Sequence[bytes]]:
        keys = self._database.keys
        listed: list[Sequence[bytes]] = [
            [b"ZREM", one, incident_id] for one in (sets.incidents, sets.changes, sets.silent)
        ]
        parsed = number_and_stream(incident_id.decode())
        if parsed is None:
            return listed
        n, name = parsed
        stream, number = StreamKey(tenant, name), b"%d" % n
        return [
            [b"HDEL", keys.part(stream, "incidents"), number],
            [b"HDEL", keys.part(stream, "incident-words"), number],
            *([b"DEL", keys.incident(stream, n, what)] for what in INCIDENT_PARTS),
            *listed,
        ]
