-- Append turns to a conversation, each id once, and let go what is too much.
-- KEYS: conversation   ARGV: ttl (s), most turns, most tokens, most ids, 1 where somebody sums up what falls out or 0,
-- then of each turn its id or '', its tokens, and its JSON without number, time and tokens, behind the opening brace
-- Returns how many turns wait to be summed up, then the turns' numbers.
local conversation = KEYS[1]
local turns, fallen, ids = conversation .. ':turns', conversation .. ':fallen', conversation .. ':ids'
local most, most_tokens = tonumber(ARGV[2]), tonumber(ARGV[3])
local now = redis.call('TIME')
local at_ms = now[1] * 1000 + math.floor(now[2] / 1000)

local function tokens_of(turn)
  -- Ours is the first of this name: all that is not ours comes behind it.
  return tonumber(string.match(turn, '"tokens":(%d+)') or 0)
end

-- Take turns from the front of a list that is longer than `over` times the bounds, until it is no longer than `left`
-- times; the last one stays where `least` is 1.
local function shortened(list, counter, least, over, left)
  local gone = {}
  local count = redis.call('LLEN', list)
  local tokens = tonumber(redis.call('HGET', conversation, counter) or 0)
  if count <= most * over and tokens <= most_tokens * over then return gone end
  while count > least and (count > most * left or tokens > most_tokens * left) do
    local turn = redis.call('LPOP', list)
    count, tokens = count - 1, tokens - tokens_of(turn)
    gone[#gone + 1] = turn
  end
  redis.call('HSET', conversation, counter, math.max(tokens, 0))
  return gone
end

local answer = {0}
for i = 6, #ARGV, 3 do
  local id = ARGV[i]
  local number = id ~= '' and redis.call('ZSCORE', ids, id)
  if not number then
    number = redis.call('HINCRBY', conversation, 'number', 1)
    local head = string.format('{"number":%d,"at_ms":%.0f,"tokens":%d,', number, at_ms, tonumber(ARGV[i + 1]))
    redis.call('RPUSH', turns, head .. ARGV[i + 2])
    redis.call('HINCRBY', conversation, 'tokens', ARGV[i + 1])
    if id ~= '' then redis.call('ZADD', ids, number, id) end
  end
  answer[#answer + 1] = tonumber(number)
end
redis.call('ZREMRANGEBYRANK', ids, 0, -1 - ARGV[4])

-- A summary costs a call of a model: what is summed up falls out in parts that are worth it.
local gone = shortened(turns, 'tokens', 1, 1, ARGV[5] == '1' and 0.75 or 1)
if ARGV[5] == '1' then
  for _, turn in ipairs(gone) do
    redis.call('RPUSH', fallen, turn)
    redis.call('HINCRBY', conversation, 'fallen_tokens', tokens_of(turn))
  end
  -- Where nobody sums up for long, the oldest are forgotten: what waits is bounded, too.
  shortened(fallen, 'fallen_tokens', 0, 2, 2)
  answer[1] = redis.call('LLEN', fallen)
end
for _, key in ipairs({conversation, turns, fallen, ids}) do
  redis.call('EXPIRE', key, ARGV[1])
end
return answer
