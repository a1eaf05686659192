-- Start a map whose items are all there. Joined behind advance.lua.
-- KEYS: map   ARGV: token of the upload, then fields of the map and their values in turn
-- Returns 1, or 0 where another upload has begun, or this one took too long.
local token, state = unpack(redis.call('HMGET', KEYS[1], 'token', 'state'))
if token ~= ARGV[1] then return 0 end
-- The answer to the first time was lost on its way.
if state ~= 'uploading' then return 1 end
local now = now_ms()
redis.call('HSET', KEYS[1], 'state', 'running', 'started_ms', now, unpack(ARGV, 2))
advance(KEYS[1], now)
touch(KEYS[1])
return 1
