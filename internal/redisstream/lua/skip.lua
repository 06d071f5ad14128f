#!lua flags=allow-oom
-- Acknowledges deliveries of types that are outside of the group's patterns, and counts them by type. The version of the
-- patterns is compared here, in one step with the acknowledgement: a pattern that a peer added a moment ago can't be missed.
--
-- KEYS  1 source (stream or lane)  2 meta
-- ARGV  1 group  2 consumer  3 version of the patterns that the caller looked at  4 1 if the source is the lane
--       5 most types to count, those beyond count under *  then ID and type of each delivery
-- Result  0 done  3 the patterns have changed, nothing was done
--
-- include unhandled
if tonumber(redis.call('HGET', KEYS[2], 'version:' .. ARGV[1]) or 0) ~= tonumber(ARGV[3]) then return 3 end

-- What comes last is tried first, where it does nothing: a user without the right to it would count them
-- each time.
redis.call('XACK', KEYS[1], ARGV[1], '0-0')
if ARGV[4] == '1' then redis.call('XDEL', KEYS[1], '0-0') end
for i = 6, #ARGV, 2 do
  local id = ARGV[i]
  if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2]) == 1 then
    count(KEYS[2], ARGV[1], ARGV[i + 1], 1, tonumber(ARGV[5]))
    redis.call('XACK', KEYS[1], ARGV[1], id)
    if ARGV[4] == '1' then redis.call('XDEL', KEYS[1], id) end
  end
end
return 0
