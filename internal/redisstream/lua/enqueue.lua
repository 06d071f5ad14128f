#!lua
-- Puts copies of events into the lane of a group, for that group alone: dead letters that are to be tried again, which leave the dead
-- letters in the same step, and replays. It stops where the lane is full.
--
-- KEYS  1 stream  2 lane  3 dead
-- ARGV  1 group  2 most entries of the lane  then for each copy: ID of the dead letter or empty, uuid, metadata, payload
-- Result  how many were put into the lane, how many were looked at (a dead letter may be gone). Error NOGROUP where there is no such group.
redis.call('XPENDING', KEYS[1], ARGV[1])
redis.call('XPENDING', KEYS[2], ARGV[1])
-- What comes last is tried first, where it does nothing: a user without the right to it would leave another copy
-- each time.
if ARGV[3] and ARGV[3] ~= '' then redis.call('XDEL', KEYS[3], '0-0') end
local done, looked = 0, 0
local room = tonumber(ARGV[2]) - redis.call('XLEN', KEYS[2])
for i = 3, #ARGV, 4 do
  if done >= room then break end
  local dead = ARGV[i]
  if dead == '' or #redis.call('XRANGE', KEYS[3], dead, dead) == 1 then
    redis.call('XADD', KEYS[2], '*', '_watermill_message_uuid', ARGV[i + 1], 'metadata', ARGV[i + 2], 'payload', ARGV[i + 3])
    if dead ~= '' then redis.call('XDEL', KEYS[3], dead) end
    done = done + 1
  end
  looked = looked + 1
end
return { done, looked }
