-- Functions for scripts that change a map. Joined in front of them.
-- `map` is the key of the map's hash; names.py lists what stands behind it. Keys are derived from it, and the list to send
-- to is read from it: kombu's transport knows no Redis Cluster, where that would not do.

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function touch(map)
  local ttl_s, is_of_files = unpack(redis.call('HMGET', map, 'ttl_s', 'loaded_list'))
  local parts = {'items', 'ids', 'outcomes', 'ended', 'failures', 'flying', 'ending', 'again', 'pace', 'reserved'}
  if is_of_files then
    for _, part in ipairs({'loaded', 'rows', 'left_out'}) do
      parts[#parts + 1] = part
    end
  end
  redis.call('EXPIRE', map, ttl_s)
  for _, part in ipairs(parts) do
    redis.call('EXPIRE', map .. ':' .. part, ttl_s)
  end
end

-- What was set aside for an item's call is free again.
local function give_back(map, index)
  local usd = redis.call('HGET', map .. ':reserved', index)
  if not usd then return end
  redis.call('HDEL', map .. ':reserved', index)
  redis.call('HINCRBYFLOAT', map, 'reserved_usd', -usd)
end

-- The number of the next item to send; nil where there is none.
local function next_index(map, total)
  local index = redis.call('LPOP', map .. ':again')
  if index then return index end
  index = redis.call('HINCRBY', map, 'next', 1) - 1
  if index < total then return index end
  redis.call('HSET', map, 'next', total)
end

local function is_open(map, index)
  return redis.call('HEXISTS', map .. ':outcomes', index) == 0 and redis.call('SISMEMBER', map .. ':flying', index) == 0
end

-- Send an item's message.
local function send(map, index, list, message)
  local name = string.match(map, '[^:]+:[^:]+$')
  local sent = redis.call('HINCRBY', map, 'sent', 1)
  local filled = string.gsub(string.gsub(message, '@ITEM@', name .. '.' .. index), '@SENT@', sent)
  redis.call('LPUSH', list, (string.gsub(filled, '@NOW@', now_ms())))
end

-- Nothing is left to do: whoever waits is told, and the task that reduces the answers is sent, once.
local function finish(map, now)
  redis.call('HSET', map, 'ended_ms', now)
  local list, message = unpack(redis.call('HMGET', map, 'then_list', 'then_message'))
  if message and redis.call('HSETNX', map, 'then_sent', 1) == 1 then
    redis.call('LPUSH', list, (string.gsub(message, '@NOW@', now)))
  end
  redis.call('PUBLISH', map, 'over')
end

-- Send as many items as the window has room for; of a large window a part, so that nobody waits long for this step: each of
-- the next steps sends as many.
local function advance(map, now)
  local names = {'state', 'total', 'window', 'list', 'message', 'room', 'loaded_list', 'loaded_message'}
  local state, total, window, list, message, room, loaded_list, loaded_message = unpack(redis.call('HMGET', map, unpack(names)))
  -- Where a budget holds items back, a wider window would only have them refused.
  if room then window = math.min(tonumber(window), tonumber(room)) end
  local flying = redis.call('SCARD', map .. ':flying')
  local is_empty, left = false, 256
  while state == 'running' and flying < tonumber(window) and left > 0 do
    local index = next_index(map, tonumber(total))
    if not index then
      is_empty = true
      break
    end
    if is_open(map, index) then
      if loaded_list and redis.call('SISMEMBER', map .. ':loaded', index) == 1 then
        send(map, index, loaded_list, loaded_message)
      else
        send(map, index, list, message)
      end
      redis.call('SADD', map .. ':flying', index)
      flying, left = flying + 1, left - 1
    end
  end
  if flying > 0 then return end
  if is_empty then redis.call('HSET', map, 'state', 'done') end
  if is_empty or state == 'failed' then finish(map, now) end
end
