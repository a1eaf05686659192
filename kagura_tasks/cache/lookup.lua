-- Look an answer up and count it.
-- KEYS: entry, stats   ARGV: stats_ttl (s)
-- Returns the value, or nil.
local value, entry = read_entry(KEYS[1], KEYS[2], ARGV[1])
if not value then
  count(KEYS[2], 'misses', ARGV[1])
  count_lookups(KEYS[1], 'cache_misses', 1)
  return false
end
count(KEYS[2], 'hits', ARGV[1])
count_lookups(KEYS[1], 'cache_hits', 1)
if entry.kind == 'completion' then count_saved(KEYS[2], entry.response, 1) end
return value
