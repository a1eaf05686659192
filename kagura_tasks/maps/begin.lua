-- Open a map for its items, unless it was started. Whoever was adding some when he was interrupted is shut out.
-- KEYS: map   ARGV: token of the upload, ttl while it is incomplete (s)
-- Returns the state that it had: '' where it is new.
local state = redis.call('HGET', KEYS[1], 'state')
if redis.call('HEXISTS', KEYS[1], 'total') == 1 then return state end
redis.call('DEL', KEYS[1], KEYS[1] .. ':items', KEYS[1] .. ':ids', KEYS[1] .. ':left_out')
redis.call('HSET', KEYS[1], 'state', 'uploading', 'token', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return ''
