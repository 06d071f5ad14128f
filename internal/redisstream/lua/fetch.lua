#!lua flags=allow-oom
-- Hands events that wait for a consumer of their types to such a consumer, the oldest of each type first: they go through the lane, and
-- are read from it in the same step, before anybody else can.
--
-- KEYS  1 waiting (see wait.lua)  2 lane
-- ARGV  1 group  2 consumer  3 most events to hand over  then types
-- Result  entries of the lane that are pending with this consumer now, as XREADGROUP answers; others that stood in the lane may be among
--         them
-- What comes last is tried first, where it does nothing: a user without the right to it would leave another copy
-- each time.
redis.call('ZREM', KEYS[1], '')
local left = tonumber(ARGV[3])
local moved = 0
for i = 4, #ARGV do
  local members = left > moved and
    redis.call('ZRANGEBYLEX', KEYS[1], '[' .. ARGV[i] .. '\0', '(' .. ARGV[i] .. '\1', 'LIMIT', 0, left - moved) or {}
  for _, member in ipairs(members) do
    local m = cmsgpack.unpack(member:match('^%Z*%z%d+%z(.*)$'))
    redis.call('XADD', KEYS[2], '*', '_watermill_message_uuid', m[1], 'metadata', m[2], 'payload', m[3])
    redis.call('ZREM', KEYS[1], member)
  end
  moved = moved + #members
end
if moved == 0 then return {} end
local read = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', left, 'STREAMS', KEYS[2], '>')
return read and read[1][2] or {}
