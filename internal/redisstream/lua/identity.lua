#!lua
-- Gives the server an ID, unless it has one.
--
-- KEYS  1 identity (hash: id -> ID)
-- ARGV  1 ID
-- Result  the ID of the server
local id = redis.call('HGET', KEYS[1], 'id')
if id then return id end
redis.call('HSET', KEYS[1], 'id', ARGV[1])
return ARGV[1]
