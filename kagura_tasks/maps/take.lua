-- Take an item's request, to answer it. Joined behind advance.lua.
-- KEYS: map   ARGV: the item's number, the token of its map, '1' where its file shall be loaded or ''
-- Returns its request ('' where that is missing) and whether its map has a budget ('1' or ''), or nothing where it shall not be
-- answered: it has an outcome, its map was stopped, or is gone, perhaps replaced by another of its name.
local map, index = KEYS[1], ARGV[1]
local state, token = unpack(redis.call('HMGET', map, 'state', 'token'))
if not state or token ~= ARGV[2] then return false end
-- The file was loaded: this message has come once more, and another one has taken its place.
if ARGV[3] ~= '' and redis.call('SISMEMBER', map .. ':loaded', index) == 1 then return false end
local is_open = redis.call('HEXISTS', map .. ':outcomes', index) == 0
if state == 'running' and is_open then
  local request = redis.call('HGET', map .. ':items', index) or ''
  return {request, redis.call('HEXISTS', map, 'budget_usd') == 1 and '1' or ''}
end
local was_flying = redis.call('SREM', map .. ':flying', index) == 1
give_back(map, index)
-- It waits for the map to be resumed.
if was_flying and is_open then redis.call('RPUSH', map .. ':again', index) end
advance(map, now_ms())
touch(map)
redis.call('PUBLISH', map, '')
return false
