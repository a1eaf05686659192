-- Keep deliveries of this worker. What is not there any more is not brought back.
-- KEYS: unacked_index, leases, prefix of the marks of taken messages   ARGV: lease (ms), then the leases
-- Returns for each lease that is not there, in turn: the lease, and 1 if another worker has the message, or 0 where the
-- server knows nothing of it.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local missing = {}
for i = 2, #ARGV do
  local tag = string.match(ARGV[i], '^%S+')
  if redis.call('ZSCORE', KEYS[2], ARGV[i]) then
    redis.call('ZADD', KEYS[2], 'XX', now + ARGV[1], ARGV[i])
    redis.call('ZADD', KEYS[1], 'XX', now / 1000, tag)
  else
    missing[#missing + 1] = ARGV[i]
    missing[#missing + 1] = redis.call('EXISTS', KEYS[3] .. tag)
  end
end
redis.call('EXPIRE', KEYS[2], 86400)
return missing
