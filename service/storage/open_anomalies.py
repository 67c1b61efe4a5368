"""Open anomalies by name: which streams have one, from the sorted sets `open`, and the alerts that began it.

The sets say what is open, and are saved with each reading. A key of each stream keeps its alerts since it was last
without an open anomaly. They are written there when they are told, before they are taken off the alerts to be told, so
that none is missing for longer than it may be told late; who dies in between leaves them to another process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from gatewatch.service.core.store import NamedAlert
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.storage.connection import raise_first
from gatewatch.service.storage.database import Database

MOST_ALERTS: Final = 16
"""Kept of a stream; of more, the first ones."""

SLICE: Final = 1000
"""Streams whose alerts are read at a time."""

_NAME: Final = b"""
local own, text = tonumber(ARGV[2]), ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4]
local begin, lines, before = ARGV[3] == '1' and own or 0, {{own, text}}, redis.pcall('GET', KEYS[1])
for line in (type(before) == 'string' and before or ''):gmatch('[^\\n]+') do
  local time, begins = line:match('^(%d+) (%d) ')
  if time and line ~= text then
    lines[#lines + 1] = {tonumber(time), line}
    if begins == '1' and tonumber(time) > begin then begin = tonumber(time) end
  end
end
table.sort(lines, function(a, b) return a[1] < b[1] end)
local kept = {}
for _, line in ipairs(lines) do
  if line[1] >= begin and #kept < tonumber(ARGV[1]) then kept[#kept + 1] = line[2] end
end
redis.call('SET', KEYS[1], table.concat(kept, '\\n'))"""


class Open(NamedTuple):
    """What is open.

    Attributes:
        streams: how many have an open anomaly.
        alerts: of the streams looked at, the texts of their alerts.
    """

    streams: int
    alerts: dict[StreamKey, list[bytes]]


async def name_alerts(database: Database, alerts: Sequence[NamedAlert]) -> None:
    """Keep alerts under the names of their streams; the same one twice is kept once."""
    async with database.within("name open anomalies"):
        commands = [
            (
                b"EVAL",
                _NAME,
                b"1",
                database.keys.part(StreamKey(database.tenant, alert.stream), "opened"),
                b"%d" % MOST_ALERTS,
                b"%d" % alert.at_ms,
                b"%d" % alert.begins,
                alert.text,
            )
            for alert in alerts
        ]
        raise_first(await database.ask_each(commands))


async def open_anomalies(database: Database, since: float, most: int) -> Open:
    """What is open, of streams that sent a reading since a time in Unix seconds.

    Args:
        most: streams, or a few more, whose alerts are read; of more, those that sent last. 0 only counts.
    """
    keys, begin = [*(sets.open for sets in database.keys.sets), *database.old_open()], b"%.3f" % since
    alerts: dict[StreamKey, list[bytes]] = {}
    async with database.within("count open anomalies"):
        counts = await database.ask_each([b"ZCOUNT", key, begin, b"+inf"] for key in keys)
        raise_first(counts)
        filled = [key for key, count in zip(keys, counts, strict=True) if count]
        if not filled or not most:
            return Open(sum(map(int, counts)), alerts)
        each = b"%d" % (2 * most // len(keys) + 1)
        found = await database.ask_each(
            [b"ZREVRANGEBYSCORE", key, b"+inf", begin, b"LIMIT", b"0", each] for key in filled
        )
        raise_first(found)
    streams = [StreamKey(database.tenant, name.decode()) for names in found for name in names]
    for start in range(0, len(streams), SLICE):
        some = streams[start : start + SLICE]
        async with database.within("read open anomalies"):
            texts = await database.values([database.keys.part(stream, "opened") for stream in some])
        for stream, text in zip(some, texts, strict=True):
            lines = (text or b"").split(b"\n")
            alerts[stream] = [line.split(b" ", 2)[2] for line in lines if line.count(b" ") >= 2]
    return Open(sum(map(int, counts)), alerts)


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
