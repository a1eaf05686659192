-- Store a task's state and result, count what the task did, and announce it. Joined behind bury.lua and add_up.lua.
-- KEYS: the task's record (also the channel's name), the mark of a taken message, counters
-- ARGV: the record, ttl (s; 0 for none), what the task did (see add_up_all)
-- Returns 1, or 0 where nothing was written: the message was given to another worker, a success is stored already, or the
-- task was cancelled and this is no outcome.
if redis.call('EXISTS', KEYS[2]) == 1 then
  count(KEYS[3], 'results_refused')
  return 0
end
local stored = redis.call('GET', KEYS[1])
-- Sent again, because the reply to the first was lost.
if stored == ARGV[1] then return 1 end
if stored then
  local ok, record = pcall(cjson.decode, stored)
  local state = ok and type(record) == 'table' and record.status
  if state == 'SUCCESS' then return 0 end
  if state == 'REVOKED' then
    local new = cjson.decode(ARGV[1]).status
    if new ~= 'SUCCESS' and new ~= 'FAILURE' then return 0 end
  end
end
if ARGV[2] == '0' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
add_up_all(ARGV[3])
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1
