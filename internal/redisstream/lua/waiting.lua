#!lua flags=no-writes,allow-oom
-- Names the types of which events wait for a consumer that handles them.
--
-- KEYS  1 waiting (see wait.lua)
-- ARGV  1 most types to name
-- Result  type and the ms since which its oldest event waits, for each
local result = {}
local from = '-'
while #result < 2 * tonumber(ARGV[1]) do
  local member = redis.call('ZRANGEBYLEX', KEYS[1], from, '+', 'LIMIT', 0, 1)[1]
  if not member then break end
  local eventType, at = member:match('^(%Z*)%z(%d+)%z')
  result[#result + 1] = eventType
  result[#result + 1] = at:sub(1, -4) -- microseconds to milliseconds
  from = '(' .. eventType .. '\1' -- behind all of this type
end
return result
