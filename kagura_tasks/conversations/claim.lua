-- Claim what fell out of a conversation, to sum it up. A claim that nobody makes use of ends by itself.
-- KEYS: conversation   ARGV: token of the claim, how long it holds (ms)
-- Returns the summary so far or '', then the turns, oldest first; nothing where there are none, or somebody has them.
local conversation = KEYS[1]
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local held_until = tonumber(redis.call('HGET', conversation, 'claimed_until_ms') or 0)
local turns = redis.call('LRANGE', conversation .. ':fallen', 0, -1)
if #turns == 0 or held_until > now_ms then return {} end
redis.call('HSET', conversation, 'claim', ARGV[1], 'claimed_until_ms', string.format('%.0f', now_ms + ARGV[2]))
table.insert(turns, 1, redis.call('HGET', conversation, 'summary') or '')
return turns
