-- Keep an item's outcome, count what its task did, and send the next item. Joined behind advance.lua and add_up.lua.
-- KEYS: map, the mark of a taken message, counters
-- ARGV: the item's number, 'done', 'failed' or 'cancelled', its outcome, '1' where it cost nothing or '', then the tokens of
--       the prompt and of the answer, the cost (USD; '' unknown) of the call behind it, the token of its map, and what its task did
--       (see add_up_all)
-- Returns 1, or 0 where nothing was kept: the message was given to another worker, the item has an outcome, or the map is gone,
-- perhaps replaced by another of its name.
local map, index, kind = KEYS[1], ARGV[1], ARGV[2]
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('HINCRBY', KEYS[3], 'results_refused', 1)
  redis.call('EXPIRE', KEYS[3], 2592000)
  return 0
end
local state, token = unpack(redis.call('HMGET', map, 'state', 'token'))
if not state or token ~= ARGV[8] then
  add_up_all(ARGV[9])
  return 0
end
local now = now_ms()
local was_flying = redis.call('SREM', map .. ':flying', index) == 1
local was_ending = redis.call('SREM', map .. ':ending', index) == 1
give_back(map, index)
if redis.call('HEXISTS', map, 'room') == 1 then redis.call('HINCRBY', map, 'room', 1) end
local kept = 0
if kind == 'cancelled' and (was_ending or state == 'cancelled') then
  -- The whole map was: where it is resumed, or was already, so is this item.
  if was_flying then redis.call('RPUSH', map .. ':again', index) end
elseif redis.call('HSETNX', map .. ':outcomes', index, ARGV[3]) == 1 then
  kept = 1
  local place = redis.call('RPUSH', map .. ':ended', index)
  redis.call('LPUSH', map .. ':pace', now)
  redis.call('LTRIM', map .. ':pace', 0, 255)
  if kind == 'done' then
    redis.call('HDEL', map .. ':items', index)
    redis.call('HINCRBY', map, 'done', 1)
  else
    redis.call('HSET', map .. ':failures', index, place)
    local most = tonumber(redis.call('HGET', map, 'max_failed'))
    if redis.call('HINCRBY', map, 'failed', 1) > most and most >= 0 and state == 'running' then
      redis.call('HSET', map, 'state', 'failed')
    end
  end
  if ARGV[4] ~= '' then
    redis.call('HINCRBY', map, 'cached', 1)
  else
    redis.call('HINCRBY', map, 'prompt_tokens', ARGV[5])
    redis.call('HINCRBY', map, 'completion_tokens', ARGV[6])
    if ARGV[7] ~= '' then redis.call('HINCRBYFLOAT', map, 'cost_usd', ARGV[7]) end
  end
end
-- Neither is true of what is sent again.
if kept == 1 or was_flying then add_up_all(ARGV[9]) end
advance(map, now)
touch(map)
redis.call('PUBLISH', map, index)
return kept
