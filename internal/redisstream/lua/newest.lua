#!lua flags=no-writes,allow-oom
-- Counts the newest entries of a stream, back to a time.
--
-- KEYS  1 stream
-- ARGV  1 ms since which to count  2 most entries to count
-- Result  how many there are, and since which ms that is: the given one, or that of the oldest that was
--         counted, where there may be more. They are read whole, so it stops after 256 KiB of them as well
local count, oldest, bytes = 0, ARGV[1], 256 * 1024
local to = '+'
while true do
  local entry = redis.call('XREVRANGE', KEYS[1], to, ARGV[1], 'COUNT', 1)[1]
  if not entry then return { count, ARGV[1] } end
  count, oldest, to = count + 1, entry[1]:match('^%d+'), '(' .. entry[1]
  for _, field in ipairs(entry[2]) do bytes = bytes - #field end
  if count == tonumber(ARGV[2]) or bytes <= 0 then return { count, oldest } end
end
