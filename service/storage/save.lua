-- Save the states of many streams, each only if its record still carries the fence it was loaded with.
--
-- KEYS: state key, history key and the two keys of earlier records of each stream, in turn.
-- ARGV: for each stream: fence ('' = there was no record) or, instead, all of the record before; record,
--       two earlier records ('' = leave as it is), '1' to begin the history anew, number of pieces of history, then offset and bytes of each piece.
-- Answers 1 (saved) or 0 (another process was first) for each stream.
local function write(key, offset, piece)
  if type(redis.pcall('SETRANGE', key, offset, piece)) == 'table' then -- a foreign value under our key
    redis.call('DEL', key)
    redis.call('SETRANGE', key, offset, piece)
  end
end
local answers, at = {}, 1
for i = 1, #KEYS, 4 do
  local fence, pieces = ARGV[at], tonumber(ARGV[at + 5])
  local held
  if #fence > 30 then held = redis.pcall('GET', KEYS[i]) else held = redis.pcall('GETRANGE', KEYS[i], 14, 43) end
  if type(held) == 'table' then held = '' end -- a foreign value under our key, loaded as none
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
return answers
