-- Send no further item of a map. Joined behind advance.lua.
-- KEYS: map   ARGV: 'paused' or 'cancelled'
-- Returns the numbers of the items that are with workers or in queues; none where the map is over.
local map = KEYS[1]
local state = redis.call('HGET', map, 'state')
local flying = redis.call('SMEMBERS', map .. ':flying')
local may = state == 'running'
if ARGV[1] == 'cancelled' then
  -- Twice, too: whoever cancelled it may have been killed before the workers were told.
  may = may or state == 'paused' or state == 'over_budget' or state == 'cancelled' or (state == 'failed' and #flying > 0)
end
if not may then return {} end
redis.call('HSET', map, 'state', ARGV[1])
if ARGV[1] == 'cancelled' then redis.call('SUNIONSTORE', map .. ':ending', map .. ':flying') end
touch(map)
redis.call('PUBLISH', map, '')
return flying
