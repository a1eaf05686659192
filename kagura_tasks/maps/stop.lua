-- Send no further item of a map. Joined behind advance.lua.
-- KEYS: map   ARGV: 'paused' or 'cancelled'
-- Returns the state that it had ('' where there is no such map), and the numbers of the items that are with workers or in
-- queues; none where the map is over.
local map = KEYS[1]
local state = redis.call('HGET', map, 'state')
if redis.call('HEXISTS', map, 'total') == 0 then
  if state == 'uploading' and ARGV[1] == 'cancelled' then
    -- Without its token, whoever adds items is shut out.
    redis.call('HDEL', map, 'token')
    redis.call('HSET', map, 'state', 'cancelled')
    redis.call('DEL', map .. ':items', map .. ':ids', map .. ':left_out')
    redis.call('PUBLISH', map, '')
  end
  return {state or ''}
end
local flying = redis.call('SMEMBERS', map .. ':flying')
local may = state == 'running'
if ARGV[1] == 'cancelled' then
  -- Twice, too: whoever cancelled it may have been killed before the workers were told.
  may = may or state == 'paused' or state == 'over_budget' or state == 'cancelled' or (state == 'failed' and #flying > 0)
end
if not may then return {state} end
redis.call('HSET', map, 'state', ARGV[1])
if ARGV[1] == 'cancelled' then redis.call('SUNIONSTORE', map .. ':ending', map .. ':flying') end
touch(map)
redis.call('PUBLISH', map, '')
table.insert(flying, 1, state)
return flying
