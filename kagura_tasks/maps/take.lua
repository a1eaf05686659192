-- Take an item's request, to answer it. Joined behind advance.lua.
-- KEYS: map   ARGV: the item's number
-- Returns its request; nothing where that is missing; '' where it shall not be answered: it has an outcome, its map was
-- stopped, or is gone.
local map, index = KEYS[1], ARGV[1]
local state = redis.call('HGET', map, 'state')
if not state then return '' end
local is_open = redis.call('HEXISTS', map .. ':outcomes', index) == 0
if state == 'running' and is_open then return redis.call('HGET', map .. ':items', index) end
local was_flying = redis.call('SREM', map .. ':flying', index) == 1
-- It waits for the map to be resumed.
if was_flying and is_open then redis.call('RPUSH', map .. ':again', index) end
advance(map, now_ms())
touch(map)
redis.call('PUBLISH', map, '')
return ''
