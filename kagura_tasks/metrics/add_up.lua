-- Functions for scripts that count. Joined in front of them; names.py says where the counters are.
-- A counter must never keep an answer from being stored: what cannot be counted is passed over (pcall).

local metrics = 'kagura:metrics:'
local month_s = 2592000

-- Add a minute that is over to the totals and to its day (which has no histograms: their names have a dot).
local function close_minute(minute)
  local key, day = metrics .. 'minute:' .. minute, metrics .. 'day:' .. math.floor(minute / 1440)
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    local name = string.match(fields[i], '[^ ]*$')
    redis.pcall('HINCRBY', metrics .. 'total', fields[i], fields[i + 1])
    if not string.find(name, '.', 1, true) then redis.pcall('HINCRBY', day, fields[i], fields[i + 1]) end
  end
  redis.call('EXPIRE', metrics .. 'total', month_s)
  redis.call('EXPIRE', metrics .. 'series', month_s)
  redis.call('EXPIRE', day, 691200)
  redis.call('EXPIRE', key, 7200)
end

-- The hash of the minute that runs. A clock that is set back opens no minute again.
local function open_minute()
  local minute = math.floor(redis.call('TIME')[1] / 60)
  local open = tonumber(redis.call('GET', metrics .. 'open') or 0)
  if open >= minute then return metrics .. 'minute:' .. open end
  if open > 0 then pcall(close_minute, open) end
  redis.call('SET', metrics .. 'open', minute, 'EX', month_s)
  return metrics .. 'minute:' .. minute
end

-- The series to count under: the one that is asked for, as long as there are not too many of them.
local function known_series(tenant, model, task)
  local names = {tenant .. ' ' .. model .. ' ' .. task, '(other) ' .. model .. ' ' .. task}
  for tier, name in ipairs(names) do
    if redis.call('SISMEMBER', metrics .. 'series', name) == 1 then return name end
    if redis.call('SCARD', metrics .. 'series') < 128 + 128 * tier then
      redis.call('SADD', metrics .. 'series', name)
      redis.call('EXPIRE', metrics .. 'series', month_s)
      return name
    end
  end
  return '(other) (other) ' .. task
end

local function add_up_in_series(tenant, model, task, counts)
  local minute = open_minute()
  local series = known_series(tenant, model, task) .. ' '
  for name, by in pairs(counts) do
    redis.pcall('HINCRBY', minute, series .. name, by)
  end
  -- Until it is closed it is part of the totals.
  if redis.call('TTL', minute) < 0 then redis.call('EXPIRE', minute, month_s) end
end

-- Add to the counters of a series. `counts`: names, and by how much (as text: Lua's numbers lose digits).
local function add_up(...)
  pcall(add_up_in_series, ...)
end

-- Add up what a task did: JSON of [tenant, model, task, counts] for each series; nothing where it is '' or left out.
local function add_up_all(document)
  if not document or document == '' then return end
  for _, one in ipairs(cjson.decode(document)) do
    add_up(one[1], one[2], one[3], one[4])
  end
end
