-- A call has ended: give its place back, and count what it really used. Joined behind limits.lua.
-- KEYS: of the limits, the most specific first, then of the budgets
-- ARGV: how it ended, as JSON (see store.py)
local ended = cjson.decode(ARGV[1])
local now = now_ms(ended.now)

-- What was counted is corrected where it was counted, if that is still in the window.
local function correct(limit, slice, need)
  if not ended.tokens or slice == '' then return end
  local window = limit.key .. ':window'
  if redis.call('HEXISTS', window, 't:' .. slice) == 0 then return end
  redis.call('HINCRBY', window, 't', ended.tokens - need)
  redis.call('HINCRBY', window, 't:' .. slice, ended.tokens - need)
end

local function free(limit)
  local held = redis.call('HGET', limit.key .. ':held', ended.id)
  if not held then return end
  local slice, need = string.match(held, '^(%S*) (%S+)$')
  local started = tonumber(redis.call('ZSCORE', limit.key .. ':running', ended.id) or now)
  local before = tonumber(redis.call('HGET', limit.key, 'takes_ms') or (now - started))
  redis.call('HSET', limit.key, 'takes_ms', exactly(before * 0.8 + (now - started) * 0.2))
  redis.call('HDEL', limit.key .. ':held', ended.id)
  redis.call('ZREM', limit.key .. ':leases', ended.id)
  redis.call('ZREM', limit.key .. ':running', ended.id)
  correct(limit, slice, tonumber(need))
end

-- The breaker counts failures in a row. Whatever else the provider says, it is there.
local function judge(key)
  if ended.outcome == 'failed' then
    if redis.call('HINCRBY', key, 'failures', 1) >= ended.breaker_failures then
      redis.call('HSET', key, 'open_until', exactly(now + ended.breaker_open_ms))
    end
  elseif ended.outcome == 'answered' then
    redis.call('HDEL', key, 'failures', 'open_until')
  end
  if redis.call('HGET', key, 'probe') == ended.ticket then redis.call('HDEL', key, 'probe', 'probe_until') end
  if ended.pause_ms > 0 then
    local until_then = math.max(tonumber(redis.call('HGET', key, 'paused_until') or 0), now + ended.pause_ms)
    redis.call('HSET', key, 'paused_until', exactly(until_then))
  end
  redis.call('EXPIRE', key, TTL_S + math.ceil(ended.pause_ms / 1000))
end

-- Those who stand in front may look again.
local function wake(key)
  for _, ticket in ipairs(redis.call('ZRANGE', key .. ':here', 0, 3)) do redis.call('PUBLISH', ended.channel .. ticket, '') end
end

for number, limit in ipairs(ended.limits) do
  limit.key = KEYS[number]
  slide(limit, now)
  free(limit)
  if number == 1 then judge(limit.key) end
  wake(limit.key)
end
for number = #ended.limits + 1, #KEYS do
  -- Of the day on which it was reserved. Where its lease has ended, the money is spent all the same.
  local day = day_of(KEYS[number], now, 0)
  if not give_back(day, ended.id) and give_back(day_of(KEYS[number], now, 1), ended.id) then
    day = day_of(KEYS[number], now, 1)
  end
  redis.call('HINCRBY', day, 'spent', exactly(ended.spent))
  redis.call('EXPIRE', day, TTL_S * 3)
end
