-- Joined behind live.lua.
-- Append events to a stream and publish them. Events that are there already are passed over: they are sent again where
-- the reply to the first time was lost.
-- KEYS: log (also the channel's name), state, the mark of a taken message (optional)
-- ARGV: attempt, ttl (s), most bytes, '1' if the last event is the stream's end, or '', number of the first event, events
-- Returns 'ok', or 'taken' where another attempt has begun, or another worker has the task, or 'ended'.
if KEYS[3] and redis.call('EXISTS', KEYS[3]) == 1 then return 'taken' end
local attempt, seq, bytes, ended = unpack(redis.call('HMGET', KEYS[2], 'attempt', 'seq', 'bytes', 'ended'))
local first = tonumber(ARGV[5])
-- Without a state the server lost its memory, or the stream its time: what is there now goes on from here.
seq, bytes = tonumber(seq or first - 1), tonumber(bytes or 0)
if attempt and attempt ~= ARGV[1] then return 'taken' end
if ended then return seq >= first + #ARGV - 6 and 'ok' or 'ended' end
for i = 6, #ARGV do
  local number = first + i - 6
  if number > seq then
    redis.call('XADD', KEYS[1], number .. '-0', 'event', ARGV[i])
    redis.call('PUBLISH', KEYS[1], ARGV[i])
    bytes, seq = bytes + #ARGV[i], number
  end
end
-- The oldest go, but never the last; a reader who has not seen them finds that their numbers are missing.
while bytes > tonumber(ARGV[3]) do
  local oldest, other = unpack(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 2))
  if not other then break end
  redis.call('XDEL', KEYS[1], oldest[1])
  bytes = bytes - #oldest[2][2]
end
redis.call('HSET', KEYS[2], 'attempt', ARGV[1], 'seq', seq, 'bytes', bytes)
if ARGV[4] ~= '' then redis.call('HSET', KEYS[2], 'ended', 1) end
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
live(KEYS[1], ARGV[4] ~= '')
return 'ok'
