"""Which streams have an open anomaly, from the sorted sets `open`; and which streams a pattern means."""

from __future__ import annotations

from dataclasses import dataclass

from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.storage.connection import raise_first
from gatewatch.service.storage.database import Database


@dataclass(frozen=True, slots=True)
class Open:
    """What is open.

    Attributes:
        count: how many streams have an open anomaly.
        streams: those of them that sent last.
    """

    count: int
    streams: list[StreamKey]


async def open_anomalies(database: Database, since: float, most: int) -> Open:
    """What is open, of all tenants that this process knows, of streams that sent a reading since a Unix time.

    Args:
        most: streams, or a few more, that are named. 0 only counts.
    """
    sets = [(tenant, of.open) for tenant in database.keys.tenants for of in database.keys.sets_of(tenant)]
    sets += [(database.tenant, key) for key in database.old_open()]
    begin = b"%.3f" % since
    async with database.within("count open anomalies"):
        counts = await database.ask_each([b"ZCOUNT", key, begin, b"+inf"] for _, key in sets)
        raise_first(counts)
        filled = [one for one, count in zip(sets, counts, strict=True) if count]
        if not filled or not most:
            return Open(sum(map(int, counts)), [])
        each = b"%d" % (2 * most // len(sets) + 1)
        found = await database.ask_each(
            [b"ZREVRANGEBYSCORE", key, b"+inf", begin, b"LIMIT", b"0", each] for _, key in filled
        )
        raise_first(found)
    named = zip(filled, found, strict=True)
    streams = [StreamKey(tenant, name.decode()) for (tenant, _), names in named for name in names]
    return Open(sum(map(int, counts)), streams)


async def streams_like(database: Database, pattern: str, most: int) -> tuple[list[StreamKey], int]:
    """Up to `most` streams that a pattern means, in alphabetical order, and how many there are.

    Args:
        pattern: a name; or the beginning of names, with `*` behind it.
    """
    name = pattern.rstrip("*").encode()
    begin, end = b"[" + name, b"[" + name + (b"\xff" if pattern.endswith("*") else b"")
    keys = [sets.streams for sets in database.keys.sets]
    async with database.within("list streams"):
        found = await database.ask_each([b"ZRANGEBYLEX", key, begin, end, b"LIMIT", b"0", b"%d" % most] for key in keys)
        counts = await database.ask_each([b"ZLEXCOUNT", key, begin, end] for key in keys)
        raise_first([*found, *counts])
    names = sorted(name.decode() for some in found for name in some)[:most]
    return [StreamKey(database.tenant, name) for name in names], sum(map(int, counts))
