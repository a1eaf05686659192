-- Take an item's request, to answer it. Joined behind advance.lua.
-- KEYS: map   ARGV: the item's number
-- Returns its request, or '' where it shall not be answered: it has an outcome, its map was stopped, or is gone.
local map, index = KEYS[1], ARGV[1]
local state = redis.call('HGET', map, 'state')
if not state then return '' end
if state == 'running' and redis.call('HEXISTS', map .. ':outcomes', index) == 0 then
  touch(map)
  return redis.call('HGET', map .. ':items', index) or ''
end
-- It waits for the map to be resumed.
if redis.call('SREM', map .. ':flying', index) == 1 and redis.call('HEXISTS', map .. ':outcomes', index) == 0 then
  redis.call('RPUSH', map .. ':again', index)
end
advance(map, now_ms())
touch(map)
redis.call('PUBLISH', map, '')
return ''
