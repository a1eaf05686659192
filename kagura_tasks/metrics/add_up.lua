-- Functions for scripts that count. Joined in front of them; names.py says where the counters are.
-- A counter must never keep an answer from being stored: what cannot be counted is passed over (pcall).

local metrics = 'kagura:metrics:'

-- The series to count under: the one that is asked for, as long as there are not too many of them.
local function known_series(tenant, model, task)
  local names = {tenant .. ' ' .. model .. ' ' .. task, '(other) ' .. model .. ' ' .. task}
  for tier, name in ipairs(names) do
    if redis.call('SISMEMBER', metrics .. 'series', name) == 1 then return name end
    if redis.call('SCARD', metrics .. 'series') < 128 + 128 * tier then
      redis.call('SADD', metrics .. 'series', name)
      redis.call('EXPIRE', metrics .. 'series', 2592000)
      return name
    end
  end
  return '(other) (other) ' .. task
end

local function add_up_in_series(tenant, model, task, counts)
  local now_s = tonumber(redis.call('TIME')[1])
  local minute, day = metrics .. 'minute:' .. math.floor(now_s / 60), metrics .. 'day:' .. math.floor(now_s / 86400)
  local series = known_series(tenant, model, task)
  for name, by in pairs(counts) do
    local field = series .. ' ' .. name
    redis.pcall('HINCRBY', metrics .. 'total', field, by)
    redis.pcall('HINCRBY', minute, field, by)
    if not string.find(name, '.', 1, true) then redis.pcall('HINCRBY', day, field, by) end
  end
  redis.call('EXPIRE', metrics .. 'total', 2592000)
  redis.call('EXPIRE', minute, 7200)
  redis.call('EXPIRE', day, 691200)
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
