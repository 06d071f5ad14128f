-- Functions on the record of a group that fails at one stream, which other scripts include. It is there
-- while anything has failed within the last minute, six slices of 10 s, and has two keys:
--
--   flow    hash: 'begun' -> ms since when it is there, 'last' -> slice of the last failure, 'swept' ->
--           slice in which old fields were removed last, and 'SLICE CONSUMER FINGERPRINT' -> how many events
--           failed with that consumer for that reason; the fingerprint + stands for successes
--   failed  sorted set: hash of an event that failed -> slice in which it was counted
--
-- An event counts when it fails first within that time, whichever consumer it fails with then: five events
-- that are tried again and again remain five. No key has a time to live, which users would need one more
-- right for: whoever looks at a record that is over ends it.

local slices, sliceMS = 6, 10000
local mostEvents, mostFields = 1000, 2000 -- with more, events count each time, and reasons as one, '*'

-- sliceOf returns the number of the slice that a time in ms lies in.
local function sliceOf(now) return math.floor(now / sliceMS) end

-- countFailure counts that a delivery has failed.
local function countFailure(flow, failed, now, consumer, print, event)
  local slice = sliceOf(now)
  redis.call('ZREMRANGEBYSCORE', failed, '-inf', slice - slices)
  redis.call('HSETNX', flow, 'begun', now)
  redis.call('HSET', flow, 'last', slice)
  if redis.call('ZSCORE', failed, event) then return end
  if redis.call('ZCARD', failed) < mostEvents then redis.call('ZADD', failed, slice, event) end
  if redis.call('HLEN', flow) >= mostFields then print = '*' end
  redis.call('HINCRBY', flow, slice .. ' ' .. consumer .. ' ' .. print, 1)
end

-- forgetFailures ends the record.
local function forgetFailures(flow, failed)
  local fields = redis.call('HKEYS', flow)
  for i = 1, #fields, 1000 do
    redis.call('HDEL', flow, unpack(fields, i, math.min(i + 999, #fields)))
  end
  redis.call('ZREMRANGEBYRANK', failed, 0, -1)
end
