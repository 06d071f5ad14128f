#!lua flags=allow-oom
-- Moves deferred deliveries of a group to its lane before they are due, one after the other, those
-- due last first: what fails again meanwhile stands behind the place that the caller has come to,
-- or is due soon anyway. It stops where the lane is full. Each copy is written to the lane before
-- it leaves the deferred set, since Lua does not roll back.
--
-- KEYS  1 stream  2 lane  3 deferred (see retry.lua)
-- ARGV  1 group  2 most entries of the lane  3 most deliveries to move
--       4 bytes after which it stops  5 only those due then, in ms, or earlier; +inf: all
-- Result  how many were moved, when the last of these was due (ARGV 5 where there was none),
--         1 if the lane is full and something is left. Error NOGROUP where there is no such group.
redis.call('XPENDING', KEYS[1], ARGV[1])
redis.call('XPENDING', KEYS[2], ARGV[1])
-- What comes last is tried first, where it does nothing: a user without the right to it would leave another copy
-- each time.
redis.call('ZREM', KEYS[3], '')
local room = tonumber(ARGV[2]) - redis.call('XLEN', KEYS[2])
local most, bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local moved, due = 0, ARGV[5]
while moved < most and bytes > 0 do
  local last = redis.call('ZREVRANGEBYSCORE', KEYS[3], due, '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
  local member = last[1]
  if not member then break end
  if moved >= room then return { moved, due, 1 } end
  local m = cmsgpack.unpack(member)
  redis.call('XADD', KEYS[2], '*',
    '_watermill_message_uuid', m[1], 'metadata', m[2], 'payload', m[3])
  redis.call('ZREM', KEYS[3], member)
  moved, bytes, due = moved + 1, bytes - #member, last[2]
end
return { moved, due, 0 }
