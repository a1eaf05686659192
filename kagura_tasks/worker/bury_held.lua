-- Put a message that a worker held among the dead letters. Joined behind bury.lua.
-- KEYS: unacked, unacked_index, leases, its mark, counters, dead letters
-- ARGV: lease, ttl of the mark (s), id, dead_ttl (s), then the entry's fields, name and value in turn
-- Returns 1, or 0 where it was settled or taken meanwhile.
local tag = string.match(ARGV[1], '^%S+')
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[2], tag)
if redis.call('HDEL', KEYS[1], tag) == 0 then return 0 end
redis.call('SET', KEYS[4], 1, 'EX', ARGV[2])
local fields = {}
for i = 5, #ARGV do fields[i - 4] = ARGV[i] end
bury(KEYS[6], KEYS[5], tonumber(ARGV[4]), ARGV[3], now_ms(), fields)
return 1
