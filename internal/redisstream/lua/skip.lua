#!lua flags=allow-oom
-- Acknowledges deliveries of types that are outside of the group's patterns, and counts them by type. The version of the
-- patterns is compared here, in one step with the acknowledgement: a pattern that a peer added a moment ago can't be missed.
--
-- KEYS  1 source (stream or lane)  2 meta
-- ARGV  1 group  2 consumer  3 version of the patterns that the caller looked at  4 1 if the source is the lane
--       5 most types to count, those beyond count under *  then ID and type of each delivery
-- Result  0 done  3 the patterns have changed, nothing was done
if tonumber(redis.call('HGET', KEYS[2], 'version:' .. ARGV[1]) or 0) ~= tonumber(ARGV[3]) then return 3 end

-- count counts an event of a type. How many types there are stands beside them: HLEN would count
-- other fields too.
local function count(type)
  local field, types = 'unhandled:' .. ARGV[1] .. ':', 'types:' .. ARGV[1]
  if redis.call('HEXISTS', KEYS[2], field .. type) == 0 then
    if tonumber(redis.call('HGET', KEYS[2], types) or 0) >= tonumber(ARGV[5]) then
      type = '*'
    else
      redis.call('HINCRBY', KEYS[2], types, 1)
    end
  end
  redis.call('HINCRBY', KEYS[2], field .. type, 1)
end

-- What comes last is tried first, where it does nothing: a user without the right to it would count them
-- each time.
redis.call('XACK', KEYS[1], ARGV[1], '0-0')
if ARGV[4] == '1' then redis.call('XDEL', KEYS[1], '0-0') end
for i = 6, #ARGV, 2 do
  local id = ARGV[i]
  if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2]) == 1 then
    count(ARGV[i + 1])
    redis.call('XACK', KEYS[1], ARGV[1], id)
    if ARGV[4] == '1' then redis.call('XDEL', KEYS[1], id) end
  end
end
return 0
