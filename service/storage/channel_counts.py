"""How many channels all streams of a tenant have in a bucket: a number, changed together with their records."""

from __future__ import annotations

from typing import Final

from gatewatch.service.core.records import STREAM_PART

ADD_CHANNELS: Final = b"""
local held = redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], string.format('%d', math.max(0, (tonumber(held) or 0) + ARGV[1])))"""

CHANNELS_OF: Final = b"""
local function channels_of(record) -- see core/layout.py: names, at the end of a record, behind its part of fixed size
  if type(record) ~= 'string' or #record < %d or record:sub(1, 2) ~= 'GW' then return 0 end
  local a, b, c, d = record:byte(9, 12)
  local ok, layout = pcall(cmsgpack.unpack, record:sub(%d + 1 + a + 256 * (b + 256 * (c + 256 * d)), -5))
  return ok and type(layout) == 'table' and type(layout[1]) == 'table' and #layout[1] or 0
end
local function forget_channels(record, key)
  local held = redis.call('TYPE', key).ok == 'string' and tonumber(redis.call('GET', key))
  if held then redis.call('SET', key, string.format('%%d', math.max(0, held - channels_of(record)))) end
end
""" % (STREAM_PART.itemsize + 4, STREAM_PART.itemsize)

FORGET_CHANNELS: Final = CHANNELS_OF + b"forget_channels(redis.pcall('GET', KEYS[1]), KEYS[2])"
"""KEYS: the record of a stream that is about to be forgotten, and the number."""
