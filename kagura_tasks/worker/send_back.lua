-- Put a message into its list again that its own worker gives back, to be done later, under a new delivery tag.
-- KEYS: unacked, unacked_index, leases, list   ARGV: lease, message to push
-- Returns 1, or 0 where it was given to another worker meanwhile.
local tag = string.match(ARGV[1], '^%S+')
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[2], tag)
if redis.call('HDEL', KEYS[1], tag) == 0 then return 0 end
redis.call('LPUSH', KEYS[4], ARGV[2])
return 1
