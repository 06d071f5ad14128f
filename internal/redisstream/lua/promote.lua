#!lua flags=allow-oom
-- Moves what is due from the deferred set of a group to its lane.
--
-- KEYS  1 deferred  2 lane
-- ARGV  1 most deliveries to move  2 about how many bytes of them  3 bound of the lane
-- Result  how many were moved, ms until the next one is due (-1: none is deferred)
--
-- include due
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return { promoteDue(KEYS[1], KEYS[2], now, tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])) }
