-- Forget that a task failed, so that a worker tries it again. An answer stays: it is paid for. So does a cancellation.
-- KEYS: the task's record
-- Returns 1 if a failure was forgotten, else 0.
local value = redis.call('GET', KEYS[1])
local ok, record = pcall(cjson.decode, value or '')
if ok and type(record) == 'table' and record.status == 'FAILURE' then return redis.call('DEL', KEYS[1]) end
return 0
