-- Add items to a map that is not started yet.
-- KEYS: map   ARGV: token of the upload, ttl while it is incomplete (s), number of the first item, then of each item its
-- request and the caller's name for it, or ''
-- Returns 1, or 0 where another upload has begun, or this one took too long.
local map = KEYS[1]
if redis.call('HGET', map, 'token') ~= ARGV[1] then return 0 end
local items, ids = {}, {}
for i = 4, #ARGV, 2 do
  local index = tonumber(ARGV[3]) + (i - 4) / 2
  items[#items + 1] = index
  items[#items + 1] = ARGV[i]
  if ARGV[i + 1] ~= '' then
    ids[#ids + 1] = index
    ids[#ids + 1] = ARGV[i + 1]
  end
end
redis.call('HSET', map .. ':items', unpack(items))
redis.call('EXPIRE', map .. ':items', ARGV[2])
if #ids > 0 then
  redis.call('HSET', map .. ':ids', unpack(ids))
  redis.call('EXPIRE', map .. ':ids', ARGV[2])
end
redis.call('EXPIRE', map, ARGV[2])
return 1
