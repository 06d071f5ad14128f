#!lua flags=allow-oom
-- Acknowledges deliveries whose entries are gone (trimmed or deleted before the group handled them) and counts them as lost.
--
-- KEYS  1 source (stream or lane)  2 meta
-- ARGV  1 group  2 consumer  then IDs
-- Result  how many were counted
local lost = {}
for i = 3, #ARGV do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2]) == 1 then lost[#lost + 1] = ARGV[i] end
end
if #lost == 0 then return 0 end
-- What comes last is tried first, where it does nothing: a user without the right to it would count them each time.
redis.call('XACK', KEYS[1], ARGV[1], '0-0')
redis.call('HINCRBY', KEYS[2], 'lost:' .. ARGV[1], #lost)
redis.call('XACK', KEYS[1], ARGV[1], unpack(lost))
return #lost
