-- Functions for scripts that put a message among the dead letters. Joined in front of them.

-- One more of `field`.
local function count(counts, field)
  redis.call('HINCRBY', counts, field, 1)
  redis.call('EXPIRE', counts, 2592000)
end

-- Put a message among the dead letters, and drop the oldest where there are too many.
-- fields: message, queue (the list it came from), reason, and whatever else is known, as name and value in turn
local function bury(dead, counts, ttl_s, id, now_ms, fields)
  local entry = dead .. ':' .. id
  redis.call('HSET', entry, 'at_ms', now_ms, unpack(fields))
  redis.call('EXPIRE', entry, ttl_s)
  redis.call('ZADD', dead, now_ms, id)
  redis.call('EXPIRE', dead, ttl_s)
  redis.call('ZREMRANGEBYSCORE', dead, '-inf', now_ms - ttl_s * 1000)
  count(counts, 'buried')
  for _, oldest in ipairs(redis.call('ZRANGE', dead, 0, -10001)) do
    redis.call('DEL', dead .. ':' .. oldest)
    redis.call('ZREM', dead, oldest)
    count(counts, 'dead_letters_dropped')
  end
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
