-- How far a map is.
-- KEYS: map
-- Returns its fields and their values in turn, then the items in flight, the latest ends that `pace` has, and the ms since the
-- first of these; nothing where there is no such map.
local fields = redis.call('HGETALL', KEYS[1])
if #fields == 0 then return {} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local first = redis.call('LINDEX', KEYS[1] .. ':pace', -1)
return {fields, redis.call('SCARD', KEYS[1] .. ':flying'), redis.call('LLEN', KEYS[1] .. ':pace'), now - (first or now)}
