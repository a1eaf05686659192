-- Read outcomes in order of completion.
-- KEYS: map   ARGV: how many were read, how many at most now, bytes after which it is enough
-- Returns the state ('' where there is no such map), total, items in flight, how many are read now, and then the outcomes: of
-- each how many are read with it, its number, what it is, and the caller's name for it or ''.
local map = KEYS[1]
local state, total = unpack(redis.call('HMGET', map, 'state', 'total'))
if not state then return {''} end
local page = {state, tonumber(total) or 0, redis.call('SCARD', map .. ':flying'), tonumber(ARGV[1])}
local bytes = 0
for _, index in ipairs(redis.call('LRANGE', map .. ':ended', ARGV[1], ARGV[1] + ARGV[2] - 1)) do
  if bytes > tonumber(ARGV[3]) then break end
  page[4] = page[4] + 1
  local outcome = tonumber(index) and redis.call('HGET', map .. ':outcomes', index)
  if outcome then
    bytes = bytes + #outcome
    page[#page + 1] = {page[4], tonumber(index), outcome, redis.call('HGET', map .. ':ids', index) or ''}
  end
end
return page
