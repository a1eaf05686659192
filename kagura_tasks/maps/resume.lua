-- Go on with a map that was stopped or broken. Joined behind advance.lua.
-- KEYS: map   ARGV: '1' to send what failed once more or '', the window and the budget (USD) or '' for those it has, '1' where the
-- task that reduces the answers was sent and is lost or '', then the numbers of items that are: their messages are in no queue
-- and with no worker
-- Returns its state; '' where there is no such map, 'uploading' where it was never started.
local map = KEYS[1]
local state = redis.call('HGET', map, 'state')
if not state then return '' end
if redis.call('HEXISTS', map, 'total') == 0 then return 'uploading' end
if ARGV[2] ~= '' then redis.call('HSET', map, 'window', ARGV[2]) end
if ARGV[3] ~= '' then redis.call('HSET', map, 'budget_usd', ARGV[3]) end
redis.call('HDEL', map, 'room')
for i = 5, #ARGV do
  if redis.call('SREM', map .. ':flying', ARGV[i]) == 1 then redis.call('RPUSH', map .. ':again', ARGV[i]) end
  give_back(map, ARGV[i])
end
if ARGV[1] ~= '' then
  local failures = redis.call('HGETALL', map .. ':failures')
  for i = 1, #failures, 2 do
    redis.call('HDEL', map .. ':outcomes', failures[i])
    redis.call('RPUSH', map .. ':again', failures[i])
    -- The list keeps its length, so that readers keep their place: an entry without a number is passed over.
    redis.call('LSET', map .. ':ended', failures[i + 1] - 1, '')
  end
  redis.call('DEL', map .. ':failures')
  redis.call('HSET', map, 'failed', 0)
end
local is_behind = redis.call('LLEN', map .. ':again') > 0
if state ~= 'done' or is_behind then
  redis.call('HSET', map, 'state', 'running')
  redis.call('HDEL', map, 'ended_ms')
  redis.call('DEL', map .. ':pace')
  advance(map, now_ms())
end
if ARGV[4] ~= '' then
  redis.call('HDEL', map, 'then_sent')
  if state == 'done' and not is_behind then finish(map, now_ms()) end
end
touch(map)
redis.call('PUBLISH', map, '')
return redis.call('HGET', map, 'state')
