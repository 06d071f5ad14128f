#!lua flags=allow-oom
-- Changes what is written about the pause of a group, if it is still what the caller saw. Then the record
-- of its failures ends: a group that goes on is judged anew, and what fails in a pause says nothing new.
--
-- KEYS  1 meta  2 flow  3 failed (see failures.lua)
-- ARGV  1 group  2 what was seen, empty: not paused  3 what is to be there, empty: not paused
-- Result  1 if it was changed, else 0
--
-- include failures
local field = 'paused:' .. ARGV[1]
if (redis.call('HGET', KEYS[1], field) or '') ~= ARGV[2] then return 0 end
if ARGV[3] == '' then
  local time = redis.call('TIME')
  redis.call('HDEL', KEYS[1], field)
  redis.call('HSET', KEYS[1], 'since:' .. ARGV[1], time[1] * 1000 + math.floor(time[2] / 1000))
else
  redis.call('HSET', KEYS[1], field, ARGV[3])
end
forgetFailures(KEYS[2], KEYS[3])
return 1
