-- Send no further item of a map. Joined behind advance.lua.
-- KEYS: map   ARGV: 'paused' or 'cancelled'
-- Returns the numbers of the items that are with workers or in queues; none where the map is over.
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'running' and state ~= 'paused' and state ~= 'failed' then return {} end
redis.call('HSET', KEYS[1], 'state', ARGV[1])
touch(KEYS[1])
redis.call('PUBLISH', KEYS[1], '')
return redis.call('SMEMBERS', KEYS[1] .. ':flying')
