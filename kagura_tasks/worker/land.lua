-- End a flight: keep its answer where there is one to keep, and tell the followers. Joined behind count.lua and store.lua.
-- KEYS: flight, outcome (also the channel's name), stats, the mark of a taken message, then `store`'s KEYS, or none
-- ARGV: id, fence, outcome (JSON), outcome_ttl (s), stats_ttl (s), then `store`'s ARGV, or none
-- Returns 1, or 0 where the flight is another's by now, or the task is: then nothing is written.
if redis.call('EXISTS', KEYS[4]) == 1 then return 0 end
local id, fence, followers = unpack(redis.call('HMGET', KEYS[1], 'id', 'fence', 'followers'))
if id and (id ~= ARGV[1] or fence ~= ARGV[2]) then return 0 end
if #KEYS > 4 then
  local keys = {}
  for i = 5, #KEYS do keys[i - 4] = KEYS[i] end
  store(keys, ARGV[6], tonumber(ARGV[7]), ARGV[8], ARGV[9])
end
redis.call('DEL', KEYS[1])
-- Without a flight (its lease ended, and nobody took over) there may be followers that nobody counted.
if not id or followers ~= '0' then
  redis.call('SET', KEYS[2], ARGV[3], 'EX', ARGV[4])
  redis.call('PUBLISH', KEYS[2], ARGV[3])
  count_shared(KEYS[1], KEYS[3], ARGV[3], tonumber(followers or 0), ARGV[5])
end
return 1
