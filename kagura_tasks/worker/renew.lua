-- Keep a flight alive for `lease` more.
-- KEYS: flight   ARGV: id, fence, lease (ms)
-- Returns 1, or 0 where the flight is another's by now.
local id, fence = unpack(redis.call('HMGET', KEYS[1], 'id', 'fence'))
if id ~= ARGV[1] or fence ~= ARGV[2] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
