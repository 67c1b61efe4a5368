"""Takeovers in Redis: the number that rises with each change of model; see core/takeover.py."""

from __future__ import annotations

from typing import Final

KEPT_CLAIMS: Final = 64
"""Services whose number is kept, of those before; older ones take the next number when they start anew."""

TAKE_OVER: Final = b"""
local key, of = KEYS[1], 'of:' .. ARGV[1] .. ':' .. ARGV[2]
local number, mine = tonumber(redis.call('HGET', key, 'number') or '0'), redis.call('HGET', key, of)
if not mine then
  if redis.call('HGET', key, 'model') ~= ARGV[2] then
    number = number + 1
    redis.call('HSET', key, 'number', number, 'model', ARGV[2], 'service', ARGV[1])
    local fields = redis.call('HGETALL', key)
    for i = 1, #fields, 2 do
      if fields[i]:sub(1, 3) == 'of:' and tonumber(fields[i + 1]) <= number - tonumber(ARGV[3]) then
        redis.call('HDEL', key, fields[i])
      end
    end
  end
  mine = number
  redis.call('HSET', key, of, mine)
end
return {tonumber(mine), number, redis.call('HGET', key, 'model')}"""

LOOK: Final = b"""
local number = tonumber(redis.call('HGET', KEYS[1], 'number') or '0')
if number < tonumber(ARGV[1]) then
  number = tonumber(ARGV[1])
  redis.call('HSET', KEYS[1], 'number', number, 'model', ARGV[2], 'service', ARGV[3])
end
return {number, redis.call('HGET', KEYS[1], 'model') or '', redis.call('HGET', KEYS[1], 'service') or ''}"""
