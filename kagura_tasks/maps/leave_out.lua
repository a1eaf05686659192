-- Add what was found beside the items of a map that is not started yet.
-- KEYS: map   ARGV: token of the upload, ttl while it is incomplete (s), then what is told of each
-- Returns 1, or 0 where another upload has begun, or this one took too long.
local map = KEYS[1]
if redis.call('HGET', map, 'token') ~= ARGV[1] then return 0 end
redis.call('RPUSH', map .. ':left_out', unpack(ARGV, 3))
redis.call('EXPIRE', map .. ':left_out', ARGV[2])
redis.call('EXPIRE', map, ARGV[2])
return 1
