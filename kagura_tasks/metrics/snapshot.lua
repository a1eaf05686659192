-- Read all counters as they are at one moment.
-- ARGV: minutes
-- Returns the server's time (s, µs), the live streams with their scores, the hashes of the totals and of this day without
-- the minute that is open, that one's number (0: none) and hash, and the hashes of so many minutes, oldest first.
local metrics = 'kagura:metrics:'
local time = redis.call('TIME')
local now = math.floor(time[1] / 60)
local open = tonumber(redis.call('GET', metrics .. 'open') or 0)
local minutes = {}
for back = ARGV[1] - 1, 0, -1 do
  minutes[#minutes + 1] = redis.call('HGETALL', metrics .. 'minute:' .. now - back)
end
return {
  tonumber(time[1]), tonumber(time[2]), redis.call('ZRANGE', 'kagura:live_streams', 0, -1, 'WITHSCORES'),
  redis.call('HGETALL', metrics .. 'total'), redis.call('HGETALL', metrics .. 'day:' .. math.floor(now / 1440)),
  open, redis.call('HGETALL', metrics .. 'minute:' .. open), minutes,
}
