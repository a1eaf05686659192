-- Stand in line no more. Joined behind limits.lua.
-- KEYS: of the limits   ARGV: the ticket
for _, key in ipairs(KEYS) do leave(key, ARGV[1]) end
