-- Keep what became of an item's file, and where it was loaded, what is asked about it: the item goes on with another message.
-- Joined behind add_up.lua and advance.lua.
-- KEYS: map, the mark of a taken message
-- ARGV: the item's number, the token of its map, what became of the file, what is asked or '' where there is nothing to ask, and
--       what the task did that loaded it (see add_up_all)
-- Returns 1, or 0 where nothing was kept: the message was given to another worker, the item has gone on or ended, or the map is
-- gone, perhaps replaced by another of its name.
local map, index = KEYS[1], ARGV[1]
local token, list, message = unpack(redis.call('HMGET', map, 'token', 'loaded_list', 'loaded_message'))
if not list or token ~= ARGV[2] or redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
if redis.call('HEXISTS', map .. ':outcomes', index) == 1 then return 0 end
if redis.call('SISMEMBER', map .. ':loaded', index) == 1 then return 0 end
redis.call('HSET', map .. ':rows', index, ARGV[3])
if ARGV[4] ~= '' then
  redis.call('HSET', map .. ':items', index, ARGV[4])
  redis.call('SADD', map .. ':loaded', index)
  if redis.call('SISMEMBER', map .. ':flying', index) == 1 then send(map, index, list, message) end
end
touch(map)
add_up_all(ARGV[5])
return 1
