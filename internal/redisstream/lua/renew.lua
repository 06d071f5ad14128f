#!lua flags=allow-oom
-- Makes deliveries look fresh that are still pending with this consumer, so that other software does not claim what is being handled. A
-- plain XCLAIM would take back what somebody has claimed meanwhile.
--
-- KEYS  1 source (stream or lane)
-- ARGV  1 group  2 consumer  then IDs
-- Result  the IDs that are no longer pending with this consumer
local gone = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2]) == 0 then
    gone[#gone + 1] = id
  elseif #redis.call('XRANGE', KEYS[1], id, id) == 1 then -- else Redis 7.0 would drop it from the pending list
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'JUSTID')
  end
end
return gone
