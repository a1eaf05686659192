-- Whether a message was given to another worker: then what its last holder brings is refused, and counted. Joined
-- behind bury.lua.
-- KEYS: the mark of a taken message, counters
-- Returns 1 or 0.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
count(KEYS[2], 'results_refused')
return 1
