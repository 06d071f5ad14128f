#!lua flags=allow-oom
-- Deletes a stream and all that belongs to it. Where others than the caller have appended to it, a note stays for a while, so that they do not take it
-- for lost.
--
-- KEYS  1 removed (string: ms of the last removal)  2 writers (see append.lua)  then all others
-- ARGV  1 what the names of the caller's writers begin with  2 ms for which the note stays
--
-- The note comes first: where the user may not write it, nothing is deleted; and where he may not delete, none is written.
local others = false
for _, writer in ipairs(redis.call('HKEYS', KEYS[2])) do
  if writer:sub(1, #ARGV[1]) ~= ARGV[1] then others = true end
end
if others then
  redis.call('UNLINK', KEYS[1])
  local time = redis.call('TIME')
  redis.call('SET', KEYS[1], time[1] .. string.format('%03d', math.floor(time[2] / 1000)), 'PX', ARGV[2])
end
for i = 2, #KEYS do
  redis.call('UNLINK', KEYS[i]) -- DEL would hold the server up while it frees a long stream
end
return 0
