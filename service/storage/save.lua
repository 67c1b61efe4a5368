-- Save the states of many streams, each only if its record still carries the fence it was loaded with.
-- Before this text stands `local first, last = ...`: where the fence lies in a record, see state.FENCE.
--
-- KEYS: state key and history key of each stream, in turn; then, of each bucket of these streams, the sorted sets of all
--       streams, of those with an open anomaly, and of alerts to be told.
-- ARGV: the time; the number of streams; for each stream: fence ('' = there was no record) or, instead, all of the
--       record before; record, '1' to begin the history anew, number of pieces of history, then offset and bytes of
--       each piece; then, for what else belongs to a stream: its number,
--       what, where its bucket's sets begin among KEYS, and the member, or as MessagePack a command on keys of
--       the same bucket, or a key of it and what is added to the number there.
-- Answers 1 (saved) or 0 (another process was first) for each stream; then how many streams are listed in each bucket,
-- -1 where that cannot be counted.
local function write(key, offset, piece)
  if type(redis.pcall('SETRANGE', key, offset, piece)) == 'table' then -- a foreign value under our key
    redis.call('DEL', key)
    redis.call('SETRANGE', key, offset, piece)
  end
end
local answers, at, streams = {}, 3, 2 * tonumber(ARGV[2])
for i = 1, streams, 2 do
  local fence, pieces = ARGV[at], tonumber(ARGV[at + 3])
  local held = redis.pcall('GET', KEYS[i])
  if type(held) ~= 'string' then held = '' end -- none; or a foreign value under our key, loaded as none
  if #fence == last - first + 1 and #held > #fence then held = held:sub(first + 1, last + 1) end
  if held == fence then
    redis.call('SET', KEYS[i], ARGV[at + 1])
    if ARGV[at + 2] == '1' then redis.call('DEL', KEYS[i + 1]) end
    for piece = at + 4, at + 2 + 2 * pieces, 2 do
      write(KEYS[i + 1], ARGV[piece], ARGV[piece + 1])
    end
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
  at = at + 4 + 2 * pieces
end
for effect = at, #ARGV, 4 do
  local what, sets, member = ARGV[effect + 1], tonumber(ARGV[effect + 2]), ARGV[effect + 3]
  if answers[tonumber(ARGV[effect])] == 1 then -- a foreign value under one of these keys fails no reading
    if what == 'listed' then redis.pcall('ZADD', KEYS[sets], 0, member)
    elseif what == 'opened' then redis.pcall('ZADD', KEYS[sets + 1], ARGV[1], member)
    elseif what == 'closed' then redis.pcall('ZREM', KEYS[sets + 1], member)
    elseif what == 'add' then
      local key, more = unpack(cmsgpack.unpack(member))
      local count = redis.pcall('GET', key)
      if type(count) ~= 'table' then
        redis.pcall('SET', key, string.format('%d', math.max(0, (tonumber(count) or 0) + more)))
      end
    elseif what == 'run' then redis.pcall(unpack(cmsgpack.unpack(member)))
    else redis.pcall('ZADD', KEYS[sets + 2], ARGV[1], member) end
  end
end
for sets = streams + 1, #KEYS, 3 do
  local count = redis.pcall('ZCARD', KEYS[sets])
  if type(count) == 'table' then count = -1 end
  answers[#answers + 1] = count
end
return answers
