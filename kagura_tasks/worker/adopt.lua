-- Record what a worker holds once more: on a server that lost its memory, or as it is now.
-- KEYS: unacked, unacked_index, leases, the mark of a taken message   ARGV: lease, its record, lease (ms)
-- Returns 1, or 0 where the message was taken meanwhile.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local tag = string.match(ARGV[1], '^%S+')
if redis.call('EXISTS', KEYS[4]) == 1 then return 0 end
redis.call('HSET', KEYS[1], tag, ARGV[2])
redis.call('ZADD', KEYS[2], now / 1000, tag)
redis.call('ZADD', KEYS[3], now + ARGV[3], ARGV[1])
redis.call('EXPIRE', KEYS[3], 86400)
return 1
