#!lua flags=allow-oom
-- Acknowledges deliveries whose entries are gone (trimmed or deleted before the group handled them) and counts them as lost.
--
-- KEYS  1 source (stream or lane)  2 meta
-- ARGV  1 group  2 consumer  then IDs
-- Result  how many were counted
local lost = 0
for i = 3, #ARGV do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2]) == 1 then
    lost = lost + redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  end
end
if lost > 0 then redis.call('HINCRBY', KEYS[2], 'lost:' .. ARGV[1], lost) end
return lost
