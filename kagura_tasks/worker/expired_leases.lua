-- Claim messages whose worker did not renew them in time: until `claim` has passed, no other sweeper sees them.
-- After a time in which nobody could look (the server was away or hung, the fleet was stopped), workers that live get
-- `grace` to renew before anything is taken from them.
-- KEYS: unacked, leases, sweep   ARGV: claim (ms), most, gap (ms), grace (ms)
-- Returns leases and records, in turn.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last, wait_until = unpack(redis.call('HMGET', KEYS[3], 'last', 'wait_until'))
redis.call('HSET', KEYS[3], 'last', now)
redis.call('EXPIRE', KEYS[3], 86400)
if not last or now - last > tonumber(ARGV[3]) then
  wait_until = now + ARGV[4]
  redis.call('HSET', KEYS[3], 'wait_until', wait_until)
end
if now < tonumber(wait_until) then return {} end
local claimed = {}
for _, lease in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2])) do
  local record = redis.call('HGET', KEYS[1], string.match(lease, '^%S+'))
  if record then
    redis.call('ZADD', KEYS[2], 'XX', now + ARGV[1], lease)
    claimed[#claimed + 1] = lease
    claimed[#claimed + 1] = record
  else
    redis.call('ZREM', KEYS[2], lease)
  end
end
return claimed
