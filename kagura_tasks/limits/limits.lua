-- Functions for scripts about limits. Joined in front of them. Times are ms, of Redis's own clock.
-- A limit comes as {key, requests, tokens, concurrency, window_ms, need}: what it allows, in a window or at a time (nothing
-- where it does not say), and the tokens that the call at hand needs. names.py says what is kept under its key.
-- Keys are derived from it: kombu's transport knows no Redis Cluster, where that would not do.

-- A window is counted in so many slices. A slice counts until all of it is out of the window, and a little longer: calls take
-- their time to reach the provider, not all of them the same.
local SLICES, LONGER, LONGER_MS = 240, 0.02, 250

-- Each class of priority stands behind the one before, whatever its place in it.
local CLASS = 1000000

-- A waiter that is silent for so long is gone. One that comes back late keeps its claim for a moment, and its place for longer:
-- it may wait for a slot behind those that would then wait for it.
local SILENT_MS, CLAIM_MS, PLACE_MS = 3000, 300, 60000

-- Whoever waits in the queue comes back so long before its turn, and not later than after the longest time.
local EARLY_MS, SHORTEST_MS, LONGEST_MS = 500, 500, 30000

local TTL_S = 86400

local function now_ms(given)
  if given then return given end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function exactly(number)
  return string.format('%.17g', number)
end

local function touch(key, parts)
  redis.call('EXPIRE', key, TTL_S)
  for _, part in ipairs(parts) do redis.call('EXPIRE', key .. ':' .. part, TTL_S) end
end

-- The window.

local function slice_ms(limit)
  return limit.window_ms / SLICES
end

local function counts_for_ms(limit)
  return limit.window_ms + math.max(limit.window_ms * LONGER, LONGER_MS)
end

local function has_window(limit)
  return limit.requests or limit.tokens
end

-- What is out of the window counts no more.
local function slide(limit, now)
  if not has_window(limit) then return end
  local window, slices = limit.key .. ':window', limit.key .. ':slices'
  local first = math.floor((now - counts_for_ms(limit)) / slice_ms(limit))
  for _, slice in ipairs(redis.call('ZRANGEBYSCORE', slices, '-inf', '(' .. exactly(first))) do
    local requests, tokens = unpack(redis.call('HMGET', window, 'r:' .. slice, 't:' .. slice))
    redis.call('HINCRBY', window, 'r', 0 - (requests or 0))
    redis.call('HINCRBY', window, 't', 0 - (tokens or 0))
    redis.call('HDEL', window, 'r:' .. slice, 't:' .. slice)
    redis.call('ZREM', slices, slice)
  end
end

local function counted(limit)
  local requests, tokens = unpack(redis.call('HMGET', limit.key .. ':window', 'r', 't'))
  return tonumber(requests or 0), tonumber(tokens or 0)
end

local function count(limit, now)
  if not has_window(limit) then return '' end
  local window, slice = limit.key .. ':window', exactly(math.floor(now / slice_ms(limit)))
  redis.call('HINCRBY', window, 'r', 1)
  redis.call('HINCRBY', window, 'r:' .. slice, 1)
  redis.call('HINCRBY', window, 't', limit.need)
  redis.call('HINCRBY', window, 't:' .. slice, limit.need)
  redis.call('ZADD', limit.key .. ':slices', slice, slice)
  return slice
end

-- When so many more of this kind ('r' or 't') fit, if nothing else is counted meanwhile but what is in front.
local function room_in_ms(limit, kind, allowed, used, wanted, now)
  if used + wanted <= allowed then return 0 end
  local windows = math.ceil(wanted / allowed) - 1
  local rest, window_ms = wanted - windows * allowed, counts_for_ms(limit)
  for _, slice in ipairs(redis.call('ZRANGE', limit.key .. ':slices', 0, -1)) do
    if used + rest <= allowed then break end
    used = used - tonumber(redis.call('HGET', limit.key .. ':window', kind .. ':' .. slice) or 0)
    if used + rest <= allowed then
      return math.max(1, math.ceil((slice + 1) * slice_ms(limit) + window_ms - now)) + windows * window_ms
    end
  end
  return math.max(1, windows * window_ms)
end

-- Calls that run. Those whose worker died are forgotten when their lease ends.

local function forget_dead(limit, now)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', limit.key .. ':leases', '-inf', exactly(now))) do
    redis.call('ZREM', limit.key .. ':leases', id)
    redis.call('ZREM', limit.key .. ':running', id)
    redis.call('HDEL', limit.key .. ':held', id)
  end
end

local function running(limit)
  return redis.call('ZCARD', limit.key .. ':leases')
end

-- When a call that has so many in front of it finds a free place, if calls take as long as they did lately.
local function place_in_ms(limit, ahead, now)
  local wanted = ahead + 1 - (limit.concurrency - running(limit))
  if wanted <= 0 then return 0 end
  local takes_ms = tonumber(redis.call('HGET', limit.key, 'takes_ms') or 1000)
  local rounds = math.floor((wanted - 1) / limit.concurrency)
  local nth = (wanted - 1) % limit.concurrency
  local _, started = unpack(redis.call('ZRANGE', limit.key .. ':running', nth, nth, 'WITHSCORES'))
  return math.max(50, takes_ms - (now - (started or now))) + rounds * takes_ms
end

-- The line. Tenants share it by start-time fair queueing: a call's place is where its tenant's last one ended by virtual
-- time, or now, and it takes the part of the limit that it needs, divided by the tenant's weight.

local function part_of(limit)
  local part = 0
  if limit.requests then part = 1 / limit.requests end
  if limit.tokens then part = math.max(part, limit.need / limit.tokens) end
  if limit.concurrency then part = math.max(part, 1 / limit.concurrency) end
  return part
end

local function next_place(limit, ask)
  local place = redis.call('ZSCORE', limit.key .. ':line', ask.ticket)
  if place then return tonumber(place), true end
  local virtual = tonumber(redis.call('HGET', limit.key, 'v:' .. ask.class) or 0)
  local ended = tonumber(redis.call('ZSCORE', limit.key .. ':ends:' .. ask.class, ask.tenant) or 0)
  return ask.class * CLASS + math.max(virtual, ended), false
end

local function charge(limit, ask, place)
  redis.call('HSET', limit.key, 'shared', 1)
  local ends_at = place - ask.class * CLASS + part_of(limit) / ask.weight
  redis.call('ZADD', limit.key .. ':ends:' .. ask.class, exactly(ends_at), ask.tenant)
  redis.call('EXPIRE', limit.key .. ':ends:' .. ask.class, TTL_S)
end

-- Virtual time is the place of whoever is served, but not beyond that of the first who waits: it may have been away.
local function advance(limit, class, place)
  local from, to = class * CLASS, '(' .. exactly((class + 1) * CLASS)
  local _, first = unpack(redis.call('ZRANGEBYSCORE', limit.key .. ':line', from, to, 'WITHSCORES', 'LIMIT', 0, 1))
  local virtual = math.max(tonumber(redis.call('HGET', limit.key, 'v:' .. class) or 0), math.min(place, first or place) - from)
  redis.call('HSET', limit.key, 'v:' .. class, exactly(virtual))
  redis.call('ZREMRANGEBYSCORE', limit.key .. ':ends:' .. class, '-inf', exactly(virtual))
end

-- Nobody waits: all tenants are equal again.
local function forget_shares(key)
  if redis.call('HDEL', key, 'shared') == 0 then return end
  for class = 0, 9 do
    redis.call('DEL', key .. ':ends:' .. class)
    redis.call('HDEL', key, 'v:' .. class)
  end
end

local function schedule(key, kind, ticket, at)
  redis.call('ZADD', key .. ':times', exactly(at), kind .. ticket)
end

local function leave(key, ticket)
  redis.call('ZREM', key .. ':line', ticket)
  redis.call('ZREM', key .. ':here', ticket)
  redis.call('ZREM', key .. ':times', 'back:' .. ticket, 'quiet:' .. ticket, 'gone:' .. ticket)
  redis.call('HDEL', key .. ':needs', ticket)
end

-- Do what has its time: waiters come back, fall silent, and are gone.
local function keep_time(key, now)
  for _, event in ipairs(redis.call('ZRANGEBYSCORE', key .. ':times', '-inf', exactly(now), 'LIMIT', 0, 200)) do
    local kind, ticket = string.match(event, '^(%a+):(.*)$')
    redis.call('ZREM', key .. ':times', event)
    if kind == 'gone' then
      leave(key, ticket)
    elseif kind == 'quiet' then
      redis.call('ZREM', key .. ':here', ticket)
    else
      local place = redis.call('ZSCORE', key .. ':line', ticket)
      if place then
        redis.call('ZADD', key .. ':here', place, ticket)
        schedule(key, 'quiet:', ticket, now + CLAIM_MS)
        touch(key, {'here', 'times'})
      end
    end
  end
end

-- How many of those that are here stand in front of this place.
local function ahead_of(limit, place)
  return redis.call('ZCOUNT', limit.key .. ':here', '-inf', '(' .. exactly(place))
end

-- Tokens that those in front need, of all in the line or of those that are here. Where they are too many to be asked, each
-- needs what this one does.
local function needed_ahead(limit, line, ahead)
  local sum, tickets = 0, ahead > 0 and redis.call('ZRANGE', limit.key .. line, 0, math.min(ahead, 200) - 1) or {}
  if #tickets == 0 or ahead > 200 then return ahead * limit.need end
  for _, need in ipairs(redis.call('HMGET', limit.key .. ':needs', unpack(tickets))) do sum = sum + (need or 0) end
  return sum
end

-- When the limit has room for the call, were the first so many of this line in front of it; 0: it has now.
local function wait_ms(limit, line, ahead, now)
  local wait, requests, tokens = 0, counted(limit)
  if limit.requests then wait = room_in_ms(limit, 'r', limit.requests, requests, ahead + 1, now) end
  if limit.tokens then
    local wanted = needed_ahead(limit, line, ahead) + limit.need
    wait = math.max(wait, room_in_ms(limit, 't', limit.tokens, tokens, wanted, now))
  end
  if limit.concurrency then wait = math.max(wait, place_in_ms(limit, ahead, now)) end
  return wait
end

-- Cooldowns: the provider asked for a pause, or failed again and again.

local function closed_ms(limit, ask, now)
  local names = {'paused_until', 'failures', 'open_until', 'probe', 'probe_until'}
  local paused, failures, open, probe, probing = unpack(redis.call('HMGET', limit.key, unpack(names)))
  if tonumber(paused or 0) > now then return paused - now, false end
  if tonumber(failures or 0) < ask.breaker_failures then return 0, false end
  if tonumber(open or 0) > now then return open - now, false end
  if probe and probe ~= ask.ticket and tonumber(probing or 0) > now then return math.min(1000, probing - now), false end
  return 0, true
end

-- Budgets: a key for each day. Amounts are whole billionths of a USD, so that nothing is lost in sums.

local function day_of(key, now, days_ago)
  return key .. ':' .. exactly(math.floor(now / 86400000) - days_ago)
end

local function give_back(day, id)
  local set_aside = redis.call('HGET', day .. ':held', id)
  if not set_aside then return false end
  redis.call('HDEL', day .. ':held', id)
  redis.call('ZREM', day .. ':leases', id)
  redis.call('HINCRBY', day, 'reserved', exactly(0 - set_aside))
  return true
end

local function forget_dead_reservations(day, now)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', day .. ':leases', '-inf', exactly(now))) do give_back(day, id) end
end
