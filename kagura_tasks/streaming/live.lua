-- Note that a stream is being written, or is no longer, for people who watch the fleet.
-- kagura:live_streams: sorted set of "<tenant> <task id>", by when they were last written to (Unix ms). Whoever has written
-- nothing for a minute, not even a heartbeat, is dead, and goes when the next stream begins.
local function live(log, is_over)
  local tenant, task_id = string.match(log, '^kagura:stream:([^:]+):(.+)$')
  if not tenant then return end
  local streams, member = 'kagura:live_streams', tenant .. ' ' .. task_id
  if is_over then
    redis.call('ZREM', streams, member)
    return
  end
  local time = redis.call('TIME')
  local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  if redis.call('ZADD', streams, now_ms, member) == 1 then
    redis.call('ZREMRANGEBYSCORE', streams, '-inf', now_ms - 60000)
  end
  redis.call('EXPIRE', streams, 60)
end

