"""The keys before there were buckets, and how streams are moved from them.

Until 0.2, a stream's keys were `gatewatch:{tenant.stream}:WHAT` and a tenant had one list of streams. Whoever looks for
a stream that has no record moves it, if it has one there; a task moves all that are listed. A stream is moved in one
step, so that it is always in one place. Under its old name a seal stays for a day: a record that makes a process of the
version before stop, whatever it was about to do (see takeover.py), and never begin the stream anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from gatewatch.service.core import records
from gatewatch.service.core.layout import layout_of
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.storage.keys import LAYOUT, PARTS, Keys, encode, identity, seed_of

MOVING_MS: Final = 24 * 3600 * 1000
"""How long after the first start streams are looked for under their old names, and their seals stay."""

STOP: Final = 2**32 - 1
"""The number of a takeover that nothing follows: a process of the version before that meets it scores nothing more."""

AT_ONCE: Final = 128
"""Streams moved in one step; it takes Redis some 2 ms."""

BEGIN: Final = b"""
-- KEYS: the layout; the key of takeovers and the list of streams of the version before; the key of takeovers; moving.
-- ARGV: buckets, how long streams are moved in ms, the number that stops the version before.
-- Answers the buckets, and '1' while streams are moved. Its commands are those that a user for the service may use.
local function is_there(key) return redis.call('TYPE', key).ok ~= 'none' end
redis.call('SET', KEYS[1], ARGV[1], 'NX')
local number = redis.pcall('HGET', KEYS[2], 'number')
local known = type(number) == 'string'
local stopped = known and (not tonumber(number) or tonumber(number) >= tonumber(ARGV[3]))
if not stopped and (known or is_there(KEYS[3])) then
  if known and not is_there(KEYS[4]) then
    local fields = redis.call('HGETALL', KEYS[2])
    for i = 1, #fields, 2 do redis.call('HSET', KEYS[4], fields[i], fields[i + 1]) end
  end
  redis.pcall('HSET', KEYS[2], 'number', ARGV[3], 'model', 'a newer version of this service', 'service', '')
  redis.call('SET', KEYS[5], '1', 'PX', ARGV[2])
end
return {redis.call('GET', KEYS[1]), redis.call('GET', KEYS[5])}"""

MOVE: Final = b"""
-- KEYS: the list of streams and that of open anomalies of the version before.
-- ARGV: how long the seals stay in ms; what there may be of a stream, by commas; for each stream: what its keys begin
--       with before and now, its seal, its name, the list of its bucket and that of open anomalies.
-- Answers for each stream: 1 moved, 0 nothing was there, -1 it was begun anew under both names.
local function is_there(key) return redis.call('TYPE', key).ok ~= 'none' end
local parts, answers = {}, {}
for part in ARGV[2]:gmatch('[^,]+') do parts[#parts + 1] = part end
for at = 3, #ARGV, 6 do
  local old, new, seal, name = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local answer = 0
  if redis.pcall('GET', old .. 'state') ~= seal then
    if is_there(old .. 'state') and is_there(new .. 'state') then
      answer = -1
    else
      for _, part in ipairs(parts) do
        local value = redis.pcall('GET', old .. part) -- what is no string, another program put there
        if type(value) == 'string' then
          answer = 1
          if not is_there(new .. part) then redis.call('SET', new .. part, value) end
          redis.call('DEL', old .. part)
        end
      end
      redis.call('SET', old .. 'state', seal, 'PX', ARGV[1])
    end
  end
  for i = 1, 2 do
    local score = redis.pcall('ZSCORE', KEYS[i], name)
    if type(score) == 'string' then
      redis.pcall('ZADD', ARGV[at + 3 + i], score, name)
      redis.pcall('ZREM', KEYS[i], name)
    end
  end
  answers[#answers + 1] = answer
end
return answers"""


CLOSE: Final = b"""
-- KEYS: the key of takeovers of the version before. A process of it that runs has stopped by now; one that is started
-- anew would count on from a number, and cannot from a text.
if redis.call('TYPE', KEYS[1]).ok == 'hash' then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'number', ARGV[1], 'model', ARGV[1])
end"""


class OldKeys:
    """The keys of one tenant before there were buckets."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.streams, self.open, self.alerts, self.takeover = (
            f"gatewatch:{{{encode(tenant)}}}:{what}".encode() for what in ("streams", "open", "alerts", "takeover")
        )

    def begin(self, keys: Keys, buckets: int) -> list[bytes]:
        """The command that says how many buckets there are, and begins to move streams where any are to be moved."""
        names = [LAYOUT, self.takeover, self.streams, keys.takeover, keys.moving]
        return [b"EVAL", BEGIN, b"5", *names, b"%d" % buckets, b"%d" % MOVING_MS, b"%d" % STOP]

    def close(self) -> list[bytes]:
        """The command that refuses the streams to a process of the version before that is started anew."""
        return [b"EVAL", CLOSE, b"1", self.takeover, b"a newer version of this service has the streams"]

    def move(self, keys: Keys, streams: Sequence[StreamKey]) -> list[bytes]:
        """The command that moves streams, and seals them under their old names."""
        arguments = [b"%d" % MOVING_MS, ",".join(PARTS).encode()]
        for stream in streams:
            name, key = identity(stream), keys[stream]
            arguments += (b"gatewatch:{%b}:" % name, key.record.removesuffix(b"state"), sealed(stream))
            arguments += (key.member, key.sets.streams, key.sets.open)
        return [b"EVAL", MOVE, b"2", self.streams, self.open, *arguments]


def sealed(stream: StreamKey) -> bytes:
    """A sound record of no model's, whose takeover nothing follows."""
    record = np.zeros(1, _SEAL)
    records.head(record, bytes(8))
    record["takeover"] = STOP
    return records.pack(record, [_SEALED], [seed_of(identity(stream))])[0]


_SEALED = layout_of(("moved",), ("moved",))
_SEAL = records.state_dtype(np.dtype("V1"), 1)
