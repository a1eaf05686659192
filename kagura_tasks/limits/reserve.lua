-- Take a place under all limits that a call counts for, and set its money aside; or stand in line. Joined behind limits.lua.
-- KEYS: of the limits, the most specific first, then of the budgets
-- ARGV: the call as JSON (see store.py)
-- Returns 'in'; or 'stay' and for how long (ms) until the next look; 'away' and for how long the task may go; 'closed' and
-- for how long, where the call has somewhere else to go; 'broke', the budget's number, what is spent and what is set aside.
local ask = cjson.decode(ARGV[1])
local now = now_ms(ask.now)

-- It is refused, or goes elsewhere: nobody needs to wait behind it.
local function leave_all()
  for number = 1, #ask.limits do leave(KEYS[number], ask.ticket) end
end

for number, budget in ipairs(ask.budgets) do
  local day = day_of(KEYS[#ask.limits + number], now, 0)
  forget_dead_reservations(day, now)
  local spent, reserved = unpack(redis.call('HMGET', day, 'spent', 'reserved'))
  spent, reserved = tonumber(spent or 0), tonumber(reserved or 0)
  if spent + reserved + budget.need > budget.allowed then
    leave_all()
    return {'broke', number, exactly(spent), exactly(reserved)}
  end
end

local function wait_for(limit, place, is_in_line, closed)
  local parts = {'window', 'slices', 'leases', 'running', 'held', 'line', 'here', 'times', 'needs'}
  for _, other in ipairs(ask.limits) do
    if other ~= limit then leave(other.key, ask.ticket) end
  end
  if not is_in_line then
    redis.call('ZADD', limit.key .. ':line', exactly(place), ask.ticket)
    redis.call('HSET', limit.key .. ':needs', ask.ticket, limit.need)
    charge(limit, ask, place)
  end
  local in_front = redis.call('ZRANK', limit.key .. ':line', ask.ticket)
  local turn_ms = math.max(closed, wait_ms(limit, ':line', in_front, now))
  if ask.may_leave and turn_ms > ask.stay_ms then
    local away_ms = math.ceil(math.max(SHORTEST_MS, math.min(turn_ms - EARLY_MS, LONGEST_MS)))
    redis.call('ZREM', limit.key .. ':here', ask.ticket)
    redis.call('ZREM', limit.key .. ':times', 'quiet:' .. ask.ticket)
    schedule(limit.key, 'back:', ask.ticket, now + away_ms)
    schedule(limit.key, 'gone:', ask.ticket, now + away_ms + PLACE_MS)
    touch(limit.key, parts)
    return {'away', away_ms}
  end
  redis.call('ZADD', limit.key .. ':here', exactly(place), ask.ticket)
  redis.call('ZREM', limit.key .. ':times', 'back:' .. ask.ticket)
  schedule(limit.key, 'quiet:', ask.ticket, now + SILENT_MS)
  schedule(limit.key, 'gone:', ask.ticket, now + PLACE_MS)
  touch(limit.key, parts)
  local look_ms = math.max(closed, wait_ms(limit, ':here', ahead_of(limit, place), now))
  return {'stay', math.ceil(math.max(10, math.min(look_ms, 1000)))}
end

local probes = {}
for number, limit in ipairs(ask.limits) do
  limit.key = KEYS[number]
  slide(limit, now)
  forget_dead(limit, now)
  keep_time(limit.key, now)
  redis.call('HSET', limit.key, 'terms', cjson.encode(limit))
  redis.call('ZADD', ask.index, now, limit.key)
end
redis.call('EXPIRE', ask.index, TTL_S)
for number, limit in ipairs(ask.limits) do
  local closed, is_probe = closed_ms(limit, ask, now)
  if closed > 0 and ask.has_elsewhere then
    leave_all()
    return {'closed', math.ceil(closed)}
  end
  local place, is_in_line = next_place(limit, ask)
  if closed > 0 or wait_ms(limit, ':here', ahead_of(limit, place), now) > 0 then
    return wait_for(limit, place, is_in_line, closed)
  end
  probes[number] = is_probe
end

local function take(limit, is_probe)
  local place, was_in_line = next_place(limit, ask)
  leave(limit.key, ask.ticket)
  if redis.call('EXISTS', limit.key .. ':line') == 0 then
    forget_shares(limit.key)
  else
    if not was_in_line then charge(limit, ask, place) end
    advance(limit, ask.class, place)
  end
  redis.call('HSET', limit.key .. ':held', ask.id, count(limit, now) .. ' ' .. limit.need)
  redis.call('ZADD', limit.key .. ':leases', exactly(now + ask.lease_ms), ask.id)
  redis.call('ZADD', limit.key .. ':running', exactly(now), ask.id)
  if is_probe then redis.call('HSET', limit.key, 'probe', ask.ticket, 'probe_until', exactly(now + ask.lease_ms)) end
  touch(limit.key, {'window', 'slices', 'leases', 'running', 'held'})
end

for number, limit in ipairs(ask.limits) do take(limit, probes[number]) end
for number, budget in ipairs(ask.budgets) do
  local day = day_of(KEYS[#ask.limits + number], now, 0)
  redis.call('HINCRBY', day, 'reserved', exactly(budget.need))
  redis.call('HSET', day .. ':held', ask.id, exactly(budget.need))
  redis.call('ZADD', day .. ':leases', exactly(now + ask.lease_ms), ask.id)
  redis.call('HSET', day, 'allowed', exactly(budget.allowed))
  redis.call('ZADD', ask.index, now, day)
  redis.call('EXPIRE', ask.index, TTL_S)
  for _, key in ipairs({day, day .. ':held', day .. ':leases'}) do redis.call('EXPIRE', key, TTL_S * 3) end
end
return {'in'}
