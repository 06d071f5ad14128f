#!lua flags=allow-oom
-- Raises the delivery counts of entries that were taken over from a dead consumer, just before their
-- handlers start: if this consumer dies as well, the count tells that the event was running then, and
-- not only waiting for its turn. The caller says from which count: raising again changes nothing.
--
-- KEYS  1 source (stream or lane)
-- ARGV  1 group  2 consumer  then ID and count of each delivery
-- Result  the IDs that are no longer pending with this consumer
local gone = {}
for i = 3, #ARGV, 2 do
  local id, count = ARGV[i], tonumber(ARGV[i + 1])
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2])[1]
  if not pending then
    gone[#gone + 1] = id
  -- Redis 7.0 would drop an entry that was trimmed from the pending list when it is claimed.
  elseif pending[4] <= count and #redis.call('XRANGE', KEYS[1], id, id) == 1 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'RETRYCOUNT', count + 1, 'JUSTID')
  end
end
return gone
