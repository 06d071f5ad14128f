#!lua flags=allow-oom
-- Puts the delivery counts of suspects back that were raised (see suspect.lua) and have no result when their
-- consumer leaves: it has not died of them. A count that is not what raising made of it stays as it is.
--
-- KEYS  1 source (stream or lane)
-- ARGV  1 group  2 consumer  then ID of each delivery, and its count before it was raised
-- Result  none
for i = 3, #ARGV, 2 do
  local id, count = ARGV[i], tonumber(ARGV[i + 1])
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2])[1]
  -- Redis 7.0 would drop an entry that was trimmed from the pending list when it is claimed.
  if pending and pending[4] == count + 1 and #redis.call('XRANGE', KEYS[1], id, id) == 1 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'RETRYCOUNT', count, 'JUSTID')
  end
end
return {}
