#!lua flags=allow-oom
-- Settles a delivery by a copy: into the lane at once, into the deferred set until it is due, or into the waiting set until a consumer
-- comes for its type. The copy is written first and the original acknowledged last, since Lua does not roll back.
--
-- KEYS  1 source (stream or lane)  2 lane  3 deferred (sorted set: packed copy -> ms when it is due)
--       4 waiting (sorted set of equal scores: type NUL time NUL packed copy, so that those of a type stand together, the oldest first)
--       5 flow  6 failed (see failures.lua)
-- ARGV  1 group  2 consumer  3 ID in the source  4 1 if the source is the lane  5 delay in ms  6 bound of lane, deferred and waiting set
--       7 uuid  8 metadata  9 payload  10 type that waits for a consumer which handles it, or empty
--       11 fingerprint of the failure, or empty where it is none  12 hash of the event
-- Result  0 done  1 no longer pending with this consumer  2 lane, deferred or waiting set is full
--
-- include failures
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) == 0 then return 1 end

local time = redis.call('TIME')
local ms = time[1] * 1000 + math.floor(time[2] / 1000)
local delay = tonumber(ARGV[5])
local bound = tonumber(ARGV[6])
if ARGV[10] ~= '' then
  if redis.call('ZCARD', KEYS[4]) >= bound then return 2 end
  local at = string.format('%012d%06d', time[1], time[2]) -- all of one length, so that their order is that of time
  redis.call('ZADD', KEYS[4], 0, ARGV[10] .. '\0' .. at .. '\0' .. cmsgpack.pack({ ARGV[7], ARGV[8], ARGV[9] }))
elseif delay <= 0 then
  -- A copy that takes the place of its original in the lane makes it no longer.
  if ARGV[4] ~= '1' and redis.call('XLEN', KEYS[2]) >= bound then return 2 end
  redis.call('XADD', KEYS[2], '*', '_watermill_message_uuid', ARGV[7], 'metadata', ARGV[8], 'payload', ARGV[9])
else
  if redis.call('ZCARD', KEYS[3]) >= bound then return 2 end
  local now = time[1] * 1000 + math.ceil(time[2] / 1000) -- so that nothing is due too early
  redis.call('ZADD', KEYS[3], now + delay, cmsgpack.pack({ ARGV[7], ARGV[8], ARGV[9] }))
end

redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
if ARGV[4] == '1' then redis.call('XDEL', KEYS[1], ARGV[3]) end
if ARGV[11] ~= '' then countFailure(KEYS[5], KEYS[6], ms, ARGV[2], ARGV[11], ARGV[12]) end
return 0
