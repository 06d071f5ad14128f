#!lua flags=allow-oom
-- Marks a consumer as gone. One that holds nothing is removed; what another still holds may be taken over at once.
--
-- KEYS  1 stream  2 lane  3 alive  4 meta
-- ARGV  1 group  2 consumer
-- Result  how many deliveries it leaves behind
local held = #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
  + #redis.call('XPENDING', KEYS[2], ARGV[1], '-', '+', 1, ARGV[2])
if held > 0 then
  redis.call('ZADD', KEYS[3], 0, ARGV[2])
else
  redis.call('ZREM', KEYS[3], ARGV[2])
  redis.call('HDEL', KEYS[4], 'consumer:' .. ARGV[1] .. ':' .. ARGV[2])
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
  redis.call('XGROUP', 'DELCONSUMER', KEYS[2], ARGV[1], ARGV[2])
end
return held
