#!lua flags=allow-oom
-- Acknowledges deliveries of a lane and deletes them there: nobody else reads a lane.
--
-- KEYS  1 lane
-- ARGV  1 group  then IDs
-- Result  how many were pending
local ids = {}
for i = 2, #ARGV do ids[#ids + 1] = ARGV[i] end
local acked = redis.call('XACK', KEYS[1], ARGV[1], unpack(ids))
redis.call('XDEL', KEYS[1], unpack(ids))
return acked
