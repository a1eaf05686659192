-- How limits and budgets stand. Joined behind limits.lua.
-- KEYS: the index of their keys
-- Returns, for each, its key and what is known of it, as JSON.
local now = now_ms()
local found = {}

local function state_of(key, terms)
  local limit = cjson.decode(terms)
  limit.key = key
  slide(limit, now)
  forget_dead(limit, now)
  keep_time(key, now)
  local requests, tokens = counted(limit)
  local names = {'paused_until', 'failures', 'open_until', 'takes_ms'}
  local paused, failures, open, takes = unpack(redis.call('HMGET', key, unpack(names)))
  return {
    requests = limit.requests, tokens = limit.tokens, concurrency = limit.concurrency, window_ms = limit.window_ms,
    requests_used = requests, tokens_used = tokens, running = running(limit),
    waiting = redis.call('ZCARD', key .. ':line'),
    paused_ms = math.max(0, tonumber(paused or 0) - now), failures = tonumber(failures or 0),
    open_ms = math.max(0, tonumber(open or 0) - now), is_open = open and true or false, takes_ms = tonumber(takes),
  }
end

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', exactly(now - TTL_S * 1000))
for _, key in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local terms, allowed, spent, reserved = unpack(redis.call('HMGET', key, 'terms', 'allowed', 'spent', 'reserved'))
  if terms then
    found[#found + 1] = key
    found[#found + 1] = cjson.encode(state_of(key, terms))
  elseif allowed and key == day_of(string.match(key, '^(.*):[^:]*$'), now, 0) then
    forget_dead_reservations(key, now)
    found[#found + 1] = key
    found[#found + 1] = cjson.encode({
      allowed = tonumber(allowed), spent = tonumber(spent or 0), reserved = tonumber(redis.call('HGET', key, 'reserved') or 0),
    })
  end
end
return found
