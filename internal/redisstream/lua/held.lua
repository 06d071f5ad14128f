#!lua flags=no-writes,allow-oom
-- Lists what is pending with a consumer. XREADGROUP would count it as delivered once more, and the count tells who was running when a process
-- died (see suspect.lua).
--
-- KEYS  1 stream  2 lane
-- ARGV  1 group  2 consumer  3 ID in the stream  4 ID in the lane, behind which to look  5 most of each
-- Result  deliveries as takeover.lua answers them
local result = {}
for lane = 0, 1 do
  local key = KEYS[lane + 1]
  for _, p in ipairs(redis.call('XPENDING', key, ARGV[1], '(' .. ARGV[lane + 3], '+', ARGV[5], ARGV[2])) do
    local entry = redis.call('XRANGE', key, p[1], p[1])[1]
    result[#result + 1] = { lane, p[1], entry and entry[2] or false, p[4] }
  end
end
return result
