-- Set money aside for the call of an item, by what it may cost at most. Joined behind advance.lua.
-- KEYS: map   ARGV: the item's number, USD
-- Returns 1, or 0 where the map's budget has no room for it: the item waits until others cost less than was set aside for
-- them. Where there are none, the map stops.
local map, index, usd = KEYS[1], ARGV[1], tonumber(ARGV[2])
-- A try before, of a worker that died perhaps, set some aside already.
give_back(map, index)
local state, budget, spent, reserved = unpack(redis.call('HMGET', map, 'state', 'budget_usd', 'cost_usd', 'reserved_usd'))
if not budget then return 1 end
if tonumber(spent or 0) + tonumber(reserved or 0) + usd <= tonumber(budget) then
  redis.call('HSET', map .. ':reserved', index, usd)
  redis.call('HINCRBYFLOAT', map, 'reserved_usd', usd)
  touch(map)
  return 1
end
if redis.call('SREM', map .. ':flying', index) == 1 then redis.call('LPUSH', map .. ':again', index) end
local flying = redis.call('SCARD', map .. ':flying')
redis.call('HSET', map, 'room', flying)
if flying == 0 and state == 'running' then redis.call('HSET', map, 'state', 'over_budget') end
touch(map)
redis.call('PUBLISH', map, '')
return 0
