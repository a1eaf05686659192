-- Look an answer up, and join the flight towards it where there is none: as its leader, or as a follower.
-- KEYS: entry, stats, flight, and the task's record where that is kept here, too
-- ARGV: new flight's id, task id, lease (ms), stats_ttl (s), looked_up ('1' or ''), id of the flight followed so far,
--       whether the task is streamed ('1' or '')
-- A flight is a hash: id, owner (task id), fence (counts who led it), followers, streamed.
-- Returns {'done', record} for a task that has an outcome: it was delivered again, or cancelled while it waited.
-- Else {'hit', value} | {'lead', id, fence} | {'follow', id, lease left (ms), the owner's task id where that is
-- streamed, or ''}
local record = KEYS[4] and redis.call('GET', KEYS[4])
if record then
  local is_json, document = pcall(cjson.decode, record)
  local status = is_json and type(document) == 'table' and document.status
  if status == 'SUCCESS' or status == 'FAILURE' or status == 'REVOKED' then return {'done', record} end
end

local looked_up, following = ARGV[5] ~= '', ARGV[6]
local value, entry = read_entry(KEYS[1], KEYS[2], ARGV[4])
if value then
  -- Whoever followed was counted when the flight landed.
  if following == '' then
    count(KEYS[2], looked_up and 'shared' or 'hits', ARGV[4])
    count_lookups(KEYS[1], looked_up and 'cache_shared' or 'cache_hits', 1)
    count_saved(KEYS[2], entry.response, 1)
  end
  return {'hit', value}
end
local first_look = following == '' and not looked_up
if first_look then
  count(KEYS[2], 'misses', ARGV[4])
  count_lookups(KEYS[1], 'cache_misses', 1)
end

local id, owner, streamed = unpack(redis.call('HMGET', KEYS[3], 'id', 'owner', 'streamed'))
if id and owner ~= ARGV[2] then
  if following ~= id then redis.call('HINCRBY', KEYS[3], 'followers', 1) end
  return {'follow', id, redis.call('PTTL', KEYS[3]), streamed == '1' and owner or ''}
end
-- Nobody leads, or this very task does: it was retried, or delivered again. Whoever led before has an older fence.
if not id then
  id = ARGV[1]
  redis.call('HSET', KEYS[3], 'id', id, 'owner', ARGV[2], 'followers', 0, 'streamed', ARGV[7])
end
local fence = redis.call('HINCRBY', KEYS[3], 'fence', 1)
redis.call('PEXPIRE', KEYS[3], ARGV[3])
return {'lead', id, fence}
