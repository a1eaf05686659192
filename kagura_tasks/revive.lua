-- Put a dead letter back into its queue.
-- KEYS: dead letters, the entry, the list to push to   ARGV: id, the message as it shall be sent
-- Returns 1, or 0 where it is gone by now.
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
  return 0
end
-- First of all: where the server refuses it (no memory, no list), the script ends here, and the letter is still there.
redis.call('LPUSH', KEYS[3], ARGV[2])
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
