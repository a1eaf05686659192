-- Take up to `room` messages, and record each as unacknowledged in the same step, in kombu's own form.
-- KEYS: unacked, unacked_index, then the lists to take from, the most urgent first
-- ARGV: room, now (Unix s), then for each list '1' to record its messages, or '0' where nobody will acknowledge them
-- Returns the number of the list and the message, in turn.
local taken, room = {}, tonumber(ARGV[1])
for i = 3, #KEYS do
  local recorded = ARGV[i] == '1'
  local messages = room > 0 and redis.call('RPOP', KEYS[i], room) or {}
  for n, message in ipairs(messages or {}) do
    local ok, decoded = pcall(cjson.decode, message)
    local properties = ok and type(decoded) == 'table' and decoded.properties
    local info = type(properties) == 'table' and properties.delivery_info
    if recorded and type(info) == 'table' and type(properties.delivery_tag) == 'string' then
      local record = '[' .. message .. ',' .. cjson.encode(info.exchange) .. ',' .. cjson.encode(info.routing_key) .. ']'
      redis.call('HSET', KEYS[1], properties.delivery_tag, record)
      redis.call('ZADD', KEYS[2], ARGV[2], properties.delivery_tag)
    end
    room = room - 1
    taken[#taken + 1] = i - 2
    taken[#taken + 1] = message
  end
end
return taken
