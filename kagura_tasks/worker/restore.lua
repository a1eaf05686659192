-- Put a message that a worker held back into its list, under a new delivery tag. Whoever held it may write nothing for
-- it from now on. Joined behind bury.lua.
-- KEYS: unacked, unacked_index, leases, its mark, counters, list
-- ARGV: lease, message to push, 'front' or 'back', ttl of the mark (s), what to count
-- Returns 1, or 0 where it was settled or taken meanwhile.
local tag = string.match(ARGV[1], '^%S+')
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[2], tag)
if redis.call('HDEL', KEYS[1], tag) == 0 then return 0 end
redis.call('SET', KEYS[4], 1, 'EX', ARGV[4])
redis.call(ARGV[3] == 'front' and 'RPUSH' or 'LPUSH', KEYS[6], ARGV[2])
count(KEYS[5], ARGV[5])
return 1
