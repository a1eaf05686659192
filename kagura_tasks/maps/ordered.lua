-- Read outcomes in the order of the items, up to the first that is missing.
-- KEYS: map   ARGV: the number of the first one, how many at most, bytes after which it is enough
-- Returns what page.lua returns.
local map = KEYS[1]
local state, total = unpack(redis.call('HMGET', map, 'state', 'total'))
if not state then return {''} end
local page = {state, tonumber(total) or 0, redis.call('SCARD', map .. ':flying'), tonumber(ARGV[1])}
local bytes = 0
local first = tonumber(ARGV[1])
for index = first, first + tonumber(ARGV[2]) - 1 do
  local outcome = bytes <= tonumber(ARGV[3]) and redis.call('HGET', map .. ':outcomes', index)
  if not outcome then break end
  bytes = bytes + #outcome
  page[4] = page[4] + 1
  page[#page + 1] = {page[4], index, outcome, redis.call('HGET', map .. ':ids', index) or ''}
end
return page
