-- Keep a running call's place, and its money. Joined behind limits.lua.
-- KEYS: of the limits, then of the budgets   ARGV: the reservation, for how much longer (ms), how many limits there are
local id, limits, now = ARGV[1], tonumber(ARGV[3]), now_ms()
local ends = exactly(now + ARGV[2])
for number, key in ipairs(KEYS) do
  if number <= limits then
    redis.call('ZADD', key .. ':leases', 'XX', ends, id)
  else
    redis.call('ZADD', day_of(key, now, 0) .. ':leases', 'XX', ends, id)
    redis.call('ZADD', day_of(key, now, 1) .. ':leases', 'XX', ends, id)
  end
end
