-- Record a task as cancelled, unless it has an outcome already, and tell whoever waits for it, and whoever runs it.
-- KEYS: the task's record (also the channel's name), the channel of cancelled tasks
-- ARGV: the record to write, ttl (s), the task's id
-- Returns 1 if the task is cancelled now, else 0.
local value = redis.call('GET', KEYS[1])
if value then
  local ok, record = pcall(cjson.decode, value)
  local state = ok and type(record) == 'table' and record.status
  if state == 'SUCCESS' or state == 'FAILURE' then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('PUBLISH', KEYS[1], ARGV[1])
redis.call('PUBLISH', KEYS[2], ARGV[3])
return 1
