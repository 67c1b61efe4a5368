-- Save the states of many streams, each only if its record still carries the fence it was loaded with.
-- Before this text stands `local first, last = ...`: where the fence lies in a record, see state.FENCE.
--
-- KEYS: state key, history key and the two keys of earlier records of each stream, in turn; then the sorted sets of all
--       streams, of those with an open anomaly, and of alerts to be told.
-- ARGV: the time; for each stream: fence ('' = there was no record) or, instead, all of the record before; record,
--       two earlier records ('' = leave as it is), '1' to begin the history anew, number of pieces of history, then
--       offset and bytes of each piece; then, for what else belongs to a stream: its number, what, and the member.
-- Answers 1 (saved) or 0 (another process was first) for each stream; then how many streams are listed, or -1.
local function write(key, offset, piece)
  if type(redis.pcall('SETRANGE', key, offset, piece)) == 'table' then -- a foreign value under our key
    redis.call('DEL', key)
    redis.call('SETRANGE', key, offset, piece)
  end
end
local answers, at, streams = {}, 2, #KEYS - 3
for i = 1, streams, 4 do
  local fence, pieces = ARGV[at], tonumber(ARGV[at + 5])
  local held = redis.pcall('GET', KEYS[i])
  if type(held) ~= 'string' then held = '' end -- none; or a foreign value under our key, loaded as none
  if #fence == last - first + 1 and #held > #fence then held = held:sub(first + 1, last + 1) end
  if held == fence then
    redis.call('SET', KEYS[i], ARGV[at + 1])
    for slot = 0, 1 do
      if ARGV[at + 2 + slot] ~= '' then redis.call('SET', KEYS[i + 2 + slot], ARGV[at + 2 + slot]) end
    end
    if ARGV[at + 4] == '1' then redis.call('DEL', KEYS[i + 1]) end
    for piece = at + 6, at + 4 + 2 * pieces, 2 do
      write(KEYS[i + 1], ARGV[piece], ARGV[piece + 1])
    end
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
  at = at + 6 + 2 * pieces
end
local listed, open, alerts = KEYS[streams + 1], KEYS[streams + 2], KEYS[streams + 3]
for effect = at, #ARGV, 3 do
  local what, member = ARGV[effect + 1], ARGV[effect + 2]
  if answers[tonumber(ARGV[effect])] == 1 then -- a foreign value under one of these keys fails no reading
    if what == 'listed' then redis.pcall('ZADD', listed, 0, member)
    elseif what == 'opened' then redis.pcall('ZADD', open, ARGV[1], member)
    elseif what == 'closed' then redis.pcall('ZREM', open, member)
    else redis.pcall('ZADD', alerts, ARGV[1], member) end
  end
end
local count = redis.pcall('ZCARD', listed)
if type(count) == 'table' then count = -1 end
answers[#answers + 1] = count
return answers
