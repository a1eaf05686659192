-- Put a dead letter back into its queue.
-- KEYS: dead letters, the entry, the list to push to   ARGV: id, the message as it shall be sent
-- Returns 1, or 0 where it is gone by now.
if redis.call('DEL', KEYS[2]) == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('LPUSH', KEYS[3], ARGV[2])
return 1
