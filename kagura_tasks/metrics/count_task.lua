-- Count what a delivery of a task did that ends without a result. Joined behind add_up.lua.
-- KEYS: the mark of a taken message, the mark that this was counted
-- ARGV: what it did (see add_up_all)
-- Returns 1, or 0 where nothing was counted: the message was given to another worker, or this is sent again.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if not redis.call('SET', KEYS[2], '1', 'NX', 'EX', 600) then return 0 end
add_up_all(ARGV[1])
return 1
