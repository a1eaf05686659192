-- Make a stream known before its task is sent: whoever asks for it meanwhile is told to wait.
-- KEYS: state   ARGV: ttl (s)
if redis.call('HSETNX', KEYS[1], 'reserved', 1) == 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return 1
