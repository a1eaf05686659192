-- Start a map whose items are all there. Joined behind advance.lua.
-- KEYS: map   ARGV: token of the upload, then fields of the map and their values in turn
-- Returns 1, or 0 where another upload has begun, or this one took too long.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
local now = now_ms()
redis.call('HDEL', KEYS[1], 'token')
redis.call('HSET', KEYS[1], 'state', 'running', 'started_ms', now, unpack(ARGV, 2))
advance(KEYS[1], now)
touch(KEYS[1])
return 1
