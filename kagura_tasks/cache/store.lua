-- Keep an answer, and list it under its tenant and its tags.
-- KEYS: entry, index, tenants, then one index a tag   ARGV: value, ttl (s), key, tenant
-- An index is a sorted set: key by expiry (Unix s, with fractions). It forgets what has expired, and lives as long as
-- its last entry. A tenant counts as long as its last entry, whatever it stored later for a shorter time.
local function list(index, member, now_s, ttl_s, unless_later)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', now_s)
  if unless_later then
    redis.call('ZADD', index, 'GT', now_s + ttl_s, member)
  else
    redis.call('ZADD', index, now_s + ttl_s, member)
  end
  if redis.call('TTL', index) < ttl_s then redis.call('EXPIRE', index, ttl_s) end
end

local function store(keys, value, ttl_s, key, tenant)
  local time = redis.call('TIME')
  local now_s = time[1] + time[2] / 1000000
  redis.call('SET', keys[1], value, 'EX', ttl_s)
  list(keys[3], tenant, now_s, ttl_s, true)
  list(keys[2], key, now_s, ttl_s, false)
  for i = 4, #keys do list(keys[i], key, now_s, ttl_s, false) end
end
