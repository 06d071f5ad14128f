#!lua flags=allow-oom
-- Takes the oldest events of a type out of what waits for a consumer, and counts them as unhandled:
-- the group does not take the type any more. They go by their rank, so that no payload is read.
--
-- KEYS  1 waiting (see wait.lua)  2 meta
-- ARGV  1 group  2 version of the patterns that the caller looked at  3 type  4 most events
--       5 most types to count, those beyond count under *
-- Result  how many that were; -1: the patterns have changed, nothing was done
--
-- include unhandled
local version = redis.call('HGET', KEYS[2], 'version:' .. ARGV[1]) or 0
if tonumber(version) ~= tonumber(ARGV[2]) then return -1 end

local first = redis.call('ZLEXCOUNT', KEYS[1], '-', '(' .. ARGV[3] .. '\0')
local n = redis.call('ZLEXCOUNT', KEYS[1], '[' .. ARGV[3] .. '\0', '(' .. ARGV[3] .. '\1')
n = math.min(n, tonumber(ARGV[4]))
if n > 0 then
  redis.call('ZREMRANGEBYRANK', KEYS[1], 1, 0) -- nothing: without the right to it, each try would count them
  count(KEYS[2], ARGV[1], ARGV[3], n, tonumber(ARGV[5]))
  redis.call('ZREMRANGEBYRANK', KEYS[1], first, first + n - 1)
end
return n
