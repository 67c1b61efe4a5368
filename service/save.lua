-- Save the states of many streams, each only if its record still carries the fence it was loaded with.
--
-- KEYS: state key and history key of each stream, in turn.
-- ARGV: for each stream: fence ('' = there was no record), record, '1' to begin the history anew,
--       number of pieces of history, then offset and bytes of each piece.
-- Answers 1 (saved) or 0 (another process was first) for each stream.
local answers, at = {}, 1
for i = 1, #KEYS, 2 do
  local fence, pieces = ARGV[at], tonumber(ARGV[at + 3])
  if redis.call('GETRANGE', KEYS[i], 8, 36) == fence then
    redis.call('SET', KEYS[i], ARGV[at + 1])
    if ARGV[at + 2] == '1' then redis.call('DEL', KEYS[i + 1]) end
    for piece = at + 4, at + 2 + 2 * pieces, 2 do
      redis.call('SETRANGE', KEYS[i + 1], ARGV[piece], ARGV[piece + 1])
    end
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
  at = at + 4 + 2 * pieces
end
return answers
