-- Keep what came of a step of an exchange. What was kept first stays: a worker that lost its task may come late.
-- KEYS: record   ARGV: step, what came of it, ttl (s)
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
