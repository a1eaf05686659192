-- Functions that the cache's scripts share. A script is metrics/add_up.lua, this file and one other, joined.

-- Count look-ups for the fleet's metrics, too: of the tenant and the model that the key of an entry or a flight names.
local function count_lookups(key, name, times)
  local tenant, rest = string.match(key, '^kagura:cache:([^:]+):entry:(.+)$')
  if not tenant then tenant, rest = string.match(key, '^kagura:flight:([^:]+):(.+)$') end
  -- Whoever chose a key of its own need not have named a model.
  if tenant then add_up(tenant, string.match(rest, '^v%d+:(%S+):%x+$') or '(none)', '(none)', {[name] = times}) end
end

-- Add one to a counter and keep the counters alive for `ttl_s` more.
local function count(stats, name, ttl_s)
  redis.call('HINCRBY', stats, name, 1)
  redis.call('EXPIRE', stats, ttl_s)
end

-- The entry's value, and what it says. Bytes that are no entry of ours are dropped, counted, and as good as absent.
local function read_entry(key, stats, ttl_s)
  local value = redis.call('GET', key)
  if not value then return nil end
  local ok, entry = pcall(cjson.decode, value)
  if ok and type(entry) == 'table' and entry.response ~= nil then return value, entry end
  redis.call('DEL', key)
  count(stats, 'corrupt', ttl_s)
  return nil
end

-- A number that can be added up: whoever planted another one must not make the script fail.
local function plausible(number)
  return type(number) == 'number' and number >= 0 and number < 2 ^ 53
end

-- Add what an answer once cost to what was saved, `times` over. What is no completion adds nothing.
local function count_saved(stats, answer, times)
  local usage = type(answer) == 'table' and answer.usage
  if type(usage) ~= 'table' then return end
  if plausible(usage.total_tokens) then
    redis.call('HINCRBY', stats, 'tokens_saved', string.format('%d', usage.total_tokens * times))
  end
  if plausible(usage.cost_usd) then
    redis.call('HINCRBYFLOAT', stats, 'usd_saved', string.format('%.12f', usage.cost_usd * times))
  end
end

-- Count those who got a running call's answer. An error is no answer.
local function count_shared(flight, stats, outcome, followers, ttl_s)
  local answer = cjson.decode(outcome).completion
  if not answer or followers == 0 then return end
  redis.call('HINCRBY', stats, 'shared', followers)
  count_lookups(flight, 'cache_shared', followers)
  redis.call('EXPIRE', stats, ttl_s)
  count_saved(stats, answer, followers)
end
