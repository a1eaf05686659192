-- Forget a map whose items were not all added.
-- KEYS: map   ARGV: token of the upload
-- Returns 1, or 0 where another upload has begun, or the map was started.
local map = KEYS[1]
local token, state = unpack(redis.call('HMGET', map, 'token', 'state'))
if token ~= ARGV[1] or state ~= 'uploading' then return 0 end
redis.call('DEL', map, map .. ':items', map .. ':ids', map .. ':left_out')
return 1
