-- Settle what is done, then take up to `room` messages and record each as unacknowledged, in kombu's own form and as a
-- lease. What is no message goes to the dead letters. Joined behind bury.lua.
-- KEYS: unacked, unacked_index, leases, dead letters, counters, then the lists to take from, the most urgent first
-- ARGV: room, lease (ms), dead_ttl (s), for each list '1' to record its messages or '0' where nobody will acknowledge
--       them (one text), then the leases to settle
-- Returns the room that is left, how many dead letters there are more, and then the number of the list, the delivery tag
-- and the message, in turn. Where room is left, this connection has read the length of each list, so that a server that tracks it tells
-- of the next message.
local room, lease_ms, dead_ttl = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 5, #ARGV do
  local tag = string.match(ARGV[i], '^%S+')
  redis.call('HDEL', KEYS[1], tag)
  redis.call('ZREM', KEYS[2], tag)
  redis.call('ZREM', KEYS[3], ARGV[i])
end

-- Nothing may fail once messages are taken, whatever they hold: they would be gone.
local function text_of(value)
  return type(value) == 'string' and value or ''
end

-- The parts of a message that a record needs; nil for what is no message.
local function parts_of(message)
  local ok, decoded = pcall(cjson.decode, message)
  local properties = ok and type(decoded) == 'table' and type(decoded.body) == 'string' and decoded.properties
  local info = type(properties) == 'table' and properties.delivery_info
  local tag = type(info) == 'table' and properties.delivery_tag
  if type(tag) ~= 'string' or not string.find(tag, '^[%w%p]+$') then return nil end
  return tag, text_of(info.exchange), text_of(info.routing_key)
end

-- No other client waits longer than about a millisecond: what is beyond is left for the next call.
local most, looked_at = 500, 0
local now, taken, buried, recorded_any = now_ms(), {room, 0}, 0, false
for i = 6, #KEYS do
  local recorded = string.sub(ARGV[4], i - 5, i - 5) == '1'
  local messages = room > 0 and redis.call('RPOP', KEYS[i], room)
  while messages do
    looked_at = looked_at + #messages
    for _, message in ipairs(messages) do
      local tag, exchange, routing_key = parts_of(message)
      if not tag then
        buried = buried + 1
        local id = redis.sha1hex(message .. now .. i .. buried)
        bury(KEYS[4], KEYS[5], dead_ttl, id, now, {'message', message, 'queue', KEYS[i], 'reason', 'it is no message'})
      else
        if recorded then
          local record = '[' .. message .. ',' .. cjson.encode(exchange) .. ',' .. cjson.encode(routing_key) .. ']'
          redis.call('HSET', KEYS[1], tag, record)
          redis.call('ZADD', KEYS[2], now / 1000, tag)
          redis.call('ZADD', KEYS[3], now + lease_ms, tag .. ' ' .. KEYS[i])
          recorded_any = true
        end
        room = room - 1
        taken[#taken + 1] = i - 5
        taken[#taken + 1] = tag
        taken[#taken + 1] = message
      end
    end
    messages = room > 0 and looked_at < most and redis.call('RPOP', KEYS[i], room)
  end
end
if recorded_any then redis.call('EXPIRE', KEYS[3], 86400) end
if looked_at >= most then
  room = 0
elseif room > 0 then
  for i = 6, #KEYS do redis.call('LLEN', KEYS[i]) end
end
taken[1], taken[2] = room, buried
return taken
