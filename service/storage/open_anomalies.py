"""Open anomalies by name: which streams have one, from the sorted set `open`, and the alerts that began it.

The set says what is open, and is saved with each reading. A hash beside it keeps the alerts of each stream since it was
last without an open anomaly. They are written there when they are told, before they are taken off the alerts to be
told, so that none is missing for longer than it may be told late; who dies in between leaves them to another process.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from gatewatch.service.storage.database import Database

MOST_ALERTS: Final = 16
"""Kept of a stream; of more, the first ones."""

SLICE: Final = 1000
"""Streams whose alerts are read at a time."""

_NAME: Final = b"""
for at = 2, #ARGV, 4 do
  local stream, own, first, text = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
  local begin, lines = first == '1' and own or 0, {{own, ARGV[at + 1] .. ' ' .. first .. ' ' .. text}}
  for line in (redis.call('HGET', KEYS[1], stream) or ''):gmatch('[^\\n]+') do
    local time, begins = line:match('^(%d+) (%d) ')
    if time and line ~= lines[1][2] then
      lines[#lines + 1] = {tonumber(time), line}
      if begins == '1' and tonumber(time) > begin then begin = tonumber(time) end
    end
  end
  table.sort(lines, function(a, b) return a[1] < b[1] end)
  local kept = {}
  for _, line in ipairs(lines) do
    if line[1] >= begin and #kept < tonumber(ARGV[1]) then kept[#kept + 1] = line[2] end
  end
  redis.call('HSET', KEYS[1], stream, table.concat(kept, '\\n'))
end"""


class NamedAlert(NamedTuple):
    """What is kept of an alert.

    Attributes:
        at_ms: when it was raised, by the clock of the service: the order of a stream's alerts.
        begins: the stream had no open anomaly before it.
        text: what it says, without line breaks.
    """

    stream: str
    at_ms: int
    begins: bool
    text: bytes


class Open(NamedTuple):
    """What is open.

    Attributes:
        streams: how many have an open anomaly.
        alerts: of the streams looked at, the texts of their alerts.
    """

    streams: int
    alerts: dict[str, list[bytes]]


async def name_alerts(database: Database, alerts: Sequence[NamedAlert]) -> None:
    """Keep alerts under the names of their streams; the same one twice is kept once."""
    arguments = [
        part
        for alert in alerts
        for part in (alert.stream.encode(), b"%d" % alert.at_ms, b"%d" % alert.begins, alert.text)
    ]
    async with database.within("name open anomalies"):
        key = database.commands.named_key.encode()
        await database.ask_one(b"EVAL", _NAME, b"1", key, b"%d" % MOST_ALERTS, *arguments)


async def open_anomalies(database: Database, within_s: float, most: int) -> Open:
    """What is open, of streams that sent a reading within the last `within_s` seconds.

    Args:
        most: streams whose alerts are read; of more, those that sent last. 0 only counts.
    """
    key, since = database.commands.open_key.encode(), b"%.3f" % (time.time() - within_s)
    async with database.within("count open anomalies"):
        count = int(await database.ask_one(b"ZCOUNT", key, since, b"+inf"))
        alerts: dict[str, list[bytes]] = {}
        if not count or not most:
            return Open(count, alerts)
        names = await database.ask_one(b"ZREVRANGEBYSCORE", key, b"+inf", since, b"LIMIT", b"0", b"%d" % most)
    named = database.commands.named_key.encode()
    for start in range(0, len(names), SLICE):
        some = names[start : start + SLICE]
        async with database.within("read open anomalies"):
            texts = await database.ask_one(b"HMGET", named, *some)
        for name, text in zip(some, texts, strict=True):
            lines = (text or b"").split(b"\n")
            alerts[name.decode()] = [line.split(b" ", 2)[2] for line in lines if line.count(b" ") >= 2]
    return Open(count, alerts)
