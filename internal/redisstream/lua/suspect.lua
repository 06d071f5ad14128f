#!lua flags=allow-oom
-- Raises the delivery count of an entry that was taken over from a dead consumer, just before its handler starts: if this consumer dies as
-- well, the count tells that the event was running then, and not only waiting for its turn.
--
-- KEYS  1 source (stream or lane)
-- ARGV  1 group  2 consumer  3 ID
-- Result  the count before, 0 if the delivery is no longer pending with this consumer
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])[1]
if not pending then return 0 end
-- Redis 7.0 would drop an entry that was trimmed from the pending list when it is claimed.
if #redis.call('XRANGE', KEYS[1], ARGV[3], ARGV[3]) == 1 then
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'RETRYCOUNT', pending[4] + 1, 'JUSTID')
end
return pending[4]
