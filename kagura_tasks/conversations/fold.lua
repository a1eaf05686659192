-- Put a new summary in place of the old one and of the turns that it sums up, or give the claim back.
-- KEYS: conversation   ARGV: token of the claim, number of the last turn that is summed up (0: none), the summary
-- Returns 1, or 0 where the claim is not ours any more: somebody else sums up, or the conversation was forgotten.
local conversation, fallen = KEYS[1], KEYS[1] .. ':fallen'
if redis.call('HGET', conversation, 'claim') ~= ARGV[1] then return 0 end
redis.call('HDEL', conversation, 'claim', 'claimed_until_ms')
if ARGV[2] == '0' then return 1 end
redis.call('HSET', conversation, 'summary', ARGV[3])
local turn = redis.call('LINDEX', fallen, 0)
while turn and tonumber(string.match(turn, '^{"number":(%d+)') or 0) <= tonumber(ARGV[2]) do
  redis.call('LPOP', fallen)
  redis.call('HINCRBY', conversation, 'fallen_tokens', -tonumber(string.match(turn, '"tokens":(%d+)') or 0))
  turn = redis.call('LINDEX', fallen, 0)
end
return 1
