#!lua flags=no-writes,allow-oom
-- Counts the newest entries of a stream, back to a time.
--
-- KEYS  1 stream
-- ARGV  1 ms since which to count  2 most entries to count
-- Result  how many there are, and the ms of the oldest that was counted, 0 where there is none. They
--         are read whole, so it stops after 256 KiB of them as well
local count, oldest, bytes = 0, '0', 256 * 1024
local to = '+'
while count < tonumber(ARGV[2]) and bytes > 0 do
  local entry = redis.call('XREVRANGE', KEYS[1], to, ARGV[1], 'COUNT', 1)[1]
  if not entry then break end
  count, oldest, to = count + 1, entry[1]:match('^%d+'), '(' .. entry[1]
  for _, field in ipairs(entry[2]) do bytes = bytes - #field end
end
return { count, oldest }
