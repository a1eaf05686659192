-- Claim a stream for a further attempt at its text, and say so in it: whoever wrote it before may write no more.
-- KEYS: log (also the channel's name), state, the mark of a taken message
-- ARGV: claim (a text of its own for each attempt), least attempt, ttl (s), now (Unix ms)
-- Returns {attempt, seq}, or {'taken'} where the task was given to another worker, or {'ended'}.
-- A state is a hash: attempt, claim, seq (the last event's), bytes (of the log), ended.
if redis.call('EXISTS', KEYS[3]) == 1 then return {'taken'} end
local attempt, claim, seq, ended = unpack(redis.call('HMGET', KEYS[2], 'attempt', 'claim', 'seq', 'ended'))
attempt, seq = tonumber(attempt or 0), tonumber(seq or 0)
if ended then return {'ended'} end
-- Sent again, because the reply to the first was lost.
if claim == ARGV[1] then return {attempt, seq} end
attempt = math.max(attempt + 1, tonumber(ARGV[2]))
seq = seq + 1
local kind = seq == 1 and 'start' or 'reset'
local event = string.format('{"seq":%d,"attempt":%d,"at_ms":%s,"kind":"%s"}', seq, attempt, ARGV[4], kind)
redis.call('XADD', KEYS[1], seq .. '-0', 'event', event)
redis.call('HSET', KEYS[2], 'attempt', attempt, 'claim', ARGV[1], 'seq', seq)
redis.call('HINCRBY', KEYS[2], 'bytes', #event)
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('PUBLISH', KEYS[1], event)
return {attempt, seq}
