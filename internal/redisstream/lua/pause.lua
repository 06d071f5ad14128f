#!lua flags=allow-oom
-- Changes what is written about the pause of a group, if it is still what the caller saw.
--
-- KEYS  1 meta
-- ARGV  1 group  2 what was seen, empty: not paused  3 what is to be there, empty: not paused
-- Result  1 if it was changed, else 0
local field = 'paused:' .. ARGV[1]
if (redis.call('HGET', KEYS[1], field) or '') ~= ARGV[2] then return 0 end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], field)
else
  redis.call('HSET', KEYS[1], field, ARGV[3])
end
return 1
