#!lua flags=allow-oom
-- Takes what consumers that do not beat, which are other software's, have left pending for long.
--
-- KEYS  1 stream  2 lane  3 alive  4 meta
-- ARGV  1 group  2 consumer  3 ms after which a delivery of a consumer without a beat is taken  4 most deliveries to take
--       5 most bytes of their entries, as far as more than one is taken
-- Result  deliveries as takeover.lua answers them
local result = {}
local left, bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
for lane = 0, 1 do
  local key = KEYS[lane + 1]
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', key, ARGV[1])) do
    local about = {}
    for i = 1, #consumer, 2 do about[consumer[i]] = consumer[i + 1] end
    if not redis.call('ZSCORE', KEYS[3], about['name']) then
      local pending = left > 0 and about['pending'] > 0
        and redis.call('XPENDING', key, ARGV[1], 'IDLE', ARGV[3], '-', '+', left, about['name']) or {}
      for _, p in ipairs(pending) do
        local entry = redis.call('XRANGE', key, p[1], p[1])[1]
        for _, field in ipairs(entry and entry[2] or {}) do bytes = bytes - #field end
        if bytes < 0 and #result > 0 then return result end
        if entry then
          redis.call('XCLAIM', key, ARGV[1], ARGV[2], 0, p[1], 'JUSTID')
          result[#result + 1] = { lane, p[1], entry[2], p[4] }
        else
          redis.call('XACK', key, ARGV[1], p[1])
          redis.call('HINCRBY', KEYS[4], 'lost:' .. ARGV[1], 1)
          result[#result + 1] = { lane, p[1], false, p[4] }
        end
      end
      left = left - #pending
    end
  end
end
return result
