#!lua flags=allow-oom
-- Lets deliveries wait until a consumer comes that handles their types, as many as there is room
-- for. Each copy is written first and its original acknowledged last, since Lua does not roll back.
-- The version of the patterns is compared here, in one step: what the group was told to forget a
-- moment ago must not wait for ever.
--
-- KEYS  1 source (stream or lane)  2 meta
--       3 waiting (sorted set of equal scores: type NUL time NUL packed copy, so that those of a
--         type stand together, the oldest first)
-- ARGV  1 group  2 consumer  3 version of the patterns that the caller looked at
--       4 1 if the source is the lane  5 bound of the waiting set
--       then ID in the source, type, uuid, metadata, payload of each delivery
-- Result  how many are settled, in their order: the set is full for the others. One that is not
--         pending with this consumer any more counts as settled. -1: the patterns have changed, and
--         nothing was done
local version = redis.call('HGET', KEYS[2], 'version:' .. ARGV[1]) or 0
if tonumber(version) ~= tonumber(ARGV[3]) then return -1 end

-- What comes last is tried first, where it does nothing: a user without the right to it would leave another copy
-- each time.
redis.call('XACK', KEYS[1], ARGV[1], '0-0')
if ARGV[4] == '1' then redis.call('XDEL', KEYS[1], '0-0') end

local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local room = tonumber(ARGV[5]) - redis.call('ZCARD', KEYS[3])
local settled = 0
for i = 6, #ARGV, 5 do
  local id = ARGV[i]
  if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2]) == 1 then
    if room <= 0 then break end
    -- All times are of one length, so that their order is that of the text. Those of one call
    -- differ, so that they keep their order.
    local at = string.format('%018d', us + settled)
    local copy = cmsgpack.pack({ ARGV[i + 2], ARGV[i + 3], ARGV[i + 4] })
    redis.call('ZADD', KEYS[3], 0, ARGV[i + 1] .. '\0' .. at .. '\0' .. copy)
    redis.call('XACK', KEYS[1], ARGV[1], id)
    if ARGV[4] == '1' then redis.call('XDEL', KEYS[1], id) end
    room = room - 1
  end
  settled = settled + 1
end
return settled
