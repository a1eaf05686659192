-- What is kept of a conversation.
-- KEYS: conversation   ARGV: how many of the last turns, or -1 for all
-- Returns the summary or '', then the turns, oldest first.
local conversation, last = KEYS[1], tonumber(ARGV[1])
local answer = {redis.call('HGET', conversation, 'summary') or ''}
if last ~= 0 then
  local first = last < 0 and 0 or -last
  for _, turn in ipairs(redis.call('LRANGE', conversation .. ':turns', first, -1)) do
    answer[#answer + 1] = turn
  end
end
return answer
