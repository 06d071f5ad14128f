#!lua flags=no-writes,allow-oom
-- Names the types of which events wait for a consumer that handles them, in their order.
--
-- KEYS  1 waiting (see wait.lua)
-- ARGV  1 most types to name  then, for some of them only,  2 and 3 where to begin and to end, as
--       ZRANGEBYLEX has it
-- Result  type and the ms since which its oldest event waits, for each; none: there are no more.
--         The oldest event is read whole, so it stops after 4 MiB as well
local result = {}
local from, to, bytes = ARGV[2] or '-', ARGV[3] or '+', 4 * 1024 * 1024
while #result < 2 * tonumber(ARGV[1]) and bytes > 0 do
  local member = redis.call('ZRANGEBYLEX', KEYS[1], from, to, 'LIMIT', 0, 1)[1]
  if not member then break end
  local eventType, at = member:match('^(%Z*)%z(%d+)%z')
  result[#result + 1] = eventType
  result[#result + 1] = at:sub(1, -4) -- microseconds to milliseconds
  from = '(' .. eventType .. '\1' -- behind all of this type
  bytes = bytes - #member
end
return result
