-- Joined behind live.lua.
-- Claim a stream for a further attempt at its text, and say so in it: whoever wrote it before may write no more.
-- KEYS: log (also the channel's name), state, the mark of a taken message
-- ARGV: claim (a text of its own for each attempt), least attempt, ttl (s), now (Unix ms), number of the writer's last
--       event, or 0
-- Returns {attempt, seq}, or {'taken'} where the task was given to another worker, or {'ended'}.
-- A state is a hash: reserved, attempt, claim, seq (the last event's), bytes (of the log), ended.
if redis.call('EXISTS', KEYS[3]) == 1 then return {'taken'} end
local is_known = redis.call('EXISTS', KEYS[2]) == 1
local attempt, claim, seq, ended = unpack(redis.call('HMGET', KEYS[2], 'attempt', 'claim', 'seq', 'ended'))
local least = tonumber(ARGV[2])
attempt, seq = tonumber(attempt or 0), tonumber(seq or 0)
if ended then return {'ended'} end
-- Sent again, because the reply to the first was lost.
if claim == ARGV[1] then return {attempt, seq} end
if not is_known then
  -- The server lost its memory, or the stream its time. Readers may have seen any number of an earlier attempt's events:
  -- this one's must not have the same numbers.
  seq = tonumber(ARGV[5])
  if seq == 0 and least > 1 then seq = tonumber(ARGV[4]) end
end
attempt = math.max(attempt + 1, least)
seq = seq + 1
local kind = seq == 1 and 'start' or 'reset'
local event = string.format('{"seq":%d,"attempt":%d,"at_ms":%s,"kind":"%s"}', seq, attempt, ARGV[4], kind)
redis.call('XADD', KEYS[1], seq .. '-0', 'event', event)
redis.call('HSET', KEYS[2], 'attempt', attempt, 'claim', ARGV[1], 'seq', seq)
redis.call('HINCRBY', KEYS[2], 'bytes', #event)
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('PUBLISH', KEYS[1], event)
live(KEYS[1], false)
return {attempt, seq}
