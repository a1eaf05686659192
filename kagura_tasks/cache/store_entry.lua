-- `store`, by itself. See store.lua for KEYS and ARGV.
store(KEYS, ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4])
return 1
