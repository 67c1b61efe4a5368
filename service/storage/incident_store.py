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

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import structlog

from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import Contended
from gatewatch.service.incidents.event import Event
from gatewatch.service.incidents.incident import Incident, decode, number_and_stream
from gatewatch.service.storage.connection import raise_first
from gatewatch.service.storage.database import Database, pairs
from gatewatch.service.storage.keys import INCIDENT_PARTS, LATEST, NUMBER, PENDING, tag_of
from gatewatch.service.storage.outbox import END_IF_LISTED

log = structlog.get_logger(__name__)

ATTEMPTS: Final = 20
"""To write what somebody says while others write as well."""

TRIMMED: Final = 1000
"""Incidents forgotten at a time."""

SCANNED: Final = 500
FORGOTTEN: Final = 100
"""Incidents that are looked at, and forgotten, in one round trip."""

_SAY: Final = b"""
if redis.call('HGET', KEYS[1], ARGV[1]) ~= (ARGV[2] ~= '' and ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[5])
return 1"""


class Found(NamedTuple):
    """An incident as it is kept, and what people said of it; b"" where nothing is there."""

    incident: bytes
    words: bytes


class Listed(NamedTuple):
    """When an incident began, or last changed, and its id."""

    at_ms: int
    id: bytes


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
        self,
        tenant: str,
        newest_ms: int,
        oldest_ms: int,
        most: int,
        *,
        changed: bool = False,
        oldest_first: bool = False,
        after: Listed | None = None,
    ) -> list[Listed]:
        """A tenant's incidents that began (or last changed) between two times, the latest first; up to `most`.

        As many of each bucket are asked for as are wanted in all, so that none is missed. Those of one time stand by
        their ids, in the same direction.

        Args:
            after: the last one of the page before; it is looked for behind that.
        """
        edge, ends, way = b"%d" % newest_ms, b"%d" % oldest_ms, [b"BYSCORE", b"REV"]
        if oldest_first:
            edge, ends, way = ends, edge, [b"BYSCORE"]
        if after is not None:
            edge = b"(%d" % after.at_ms
        commands: list[list[bytes]] = []
        for one in self._database.keys.sets_of(tenant):
            key = one.changes if changed else one.incidents
            commands.append([b"ZRANGE", key, edge, ends, *way, b"LIMIT", b"0", b"%d" % most, b"WITHSCORES"])
            if after is not None:  # a site that loses its power has more of one time than a page
                commands.append([b"ZRANGE", key, *2 * (b"%d" % after.at_ms,), *way, b"WITHSCORES"])
        async with self._database.within("list incidents"):
            replies = await self._database.ask_each(commands)
            raise_first(replies)
        found = [Listed(int(float(at)), bytes(id_)) for reply in replies for id_, at in pairs(reply)]
        if after is not None:
            found = [one for one in found if (one > after if oldest_first else one < after)]
        return sorted(found, reverse=not oldest_first)[:most]

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

    async def trim(self, tenant: str, before_ms: int, most: int, now_ms: int) -> int:
        """Forget a tenant's incidents that are older than a time, and those beyond a number; how many were.

        Old is what began before that time, and has ended or was heard of last before it too. Beyond the number go first
        those that have ended and of which nobody has said anything, then those that are open, at last those that
        people have answered; the oldest of each. At most TRIMMED at a time: whoever calls again goes on. Who was told
        that one is open is told that it has ended.
        """
        sets = self._database.keys.sets_of(tenant)
        async with self._database.within("forget old incidents"):
            counts = await self._database.ask_each([b"ZCARD", one.incidents] for one in sets)
            raise_first(counts)
        beyond = min(sum(counts) - most, TRIMMED)
        forgotten: list[bytes] = []
        waited_for: set[bytes] = set()
        spared: tuple[list[bytes], list[bytes]] = [], []
        after: Listed | None = None
        while len(forgotten) < TRIMMED:
            newest_ms = 2**53 if len(forgotten) < beyond else before_ms - 1
            page = await self.listed(tenant, newest_ms, 0, SCANNED, oldest_first=True, after=after)
            for one, incident, said in await self._known(tenant, page):
                is_open = incident is not None and incident.is_open
                if self._database.tells and incident is not None and incident.is_waited_for:
                    waited_for.add(one.id)
                is_old = one.at_ms < before_ms and (incident is None or not is_open or incident.last_ms < before_ms)
                if is_old or (len(forgotten) < beyond and not is_open and not said):
                    forgotten.append(one.id)
                elif len(spared[said]) < TRIMMED:
                    spared[said].append(one.id)
            if len(page) < SCANNED:
                break
            after = page[-1]
        if len(forgotten) < beyond:
            more = [*spared[0], *spared[1]][: beyond - len(forgotten)]
            log.warning(
                "more incidents are open or answered than are kept: the oldest are forgotten",
                incidents=len(more), setting="GATEWATCH_INCIDENTS",
            )  # fmt: skip
            forgotten += more
        ends = {id_: now_ms for id_ in forgotten[:TRIMMED] if id_ in waited_for}
        await self._forget_all(tenant, forgotten[:TRIMMED], ends)
        return len(forgotten[:TRIMMED])

    async def _known(self, tenant: str, page: Sequence[Listed]) -> list[tuple[Listed, Incident | None, bool]]:
        """Incidents that are listed, and whether people have said anything of each; None for one that is gone."""
        parsed = [number_and_stream(one.id.decode()) for one in page]
        known = [(StreamKey(tenant, one[1]), one[0]) for one in parsed if one is not None]
        kept = iter(await self.find(known) if known else [])
        found = [Found(b"", b"") if one is None else next(kept) for one in parsed]
        return [(one, decode(kept.incident), bool(kept.words)) for one, kept in zip(page, found, strict=True)]

    async def _forget_all(self, tenant: str, ids: Sequence[bytes], ends: Mapping[bytes, int]) -> None:
        for start in range(0, len(ids), FORGOTTEN):
            some = ids[start : start + FORGOTTEN]
            async with self._database.within("forget old incidents"):
                raise_first(
                    await self._database.ask_each(
                        command for id_ in some for command in self._forget(tenant, id_, ends.get(id_))
                    )
                )

    def _forget(self, tenant: str, incident_id: bytes, end_ms: int | None) -> list[Sequence[bytes]]:
        """What forgets an incident.

        Args:
            end_ms: when it ends by that for those who were told that it is open; None where nobody waits.
        """
        keys = self._database.keys
        parsed = number_and_stream(incident_id.decode())
        if parsed is None:  # none of ours: it may be listed in any bucket
            return [[b"ZREM", one.incidents, incident_id] for one in keys.sets_of(tenant)]
        n, name = parsed
        stream, number = StreamKey(tenant, name), b"%d" % n
        sets = keys[stream].sets
        end: list[Sequence[bytes]] = []
        if end_ms is not None:
            event = Event("ended", end_ms, tenant, n, name)
            outbox = keys.outbox(tag_of(keys[stream].record))
            end = [[b"EVAL", END_IF_LISTED, b"2", sets.incidents, outbox, incident_id, *event.queued]]
        return [
            *end,
            [b"HDEL", keys.part(stream, "incidents"), number],
            [b"HDEL", keys.part(stream, "incident-words"), number],
            *([b"DEL", keys.incident(stream, n, what)] for what in INCIDENT_PARTS),
            *([b"ZREM", one, incident_id] for one in (sets.incidents, sets.changes, sets.silent)),
        ]
