#!lua flags=allow-oom
-- Settles a delivery by a copy: into the lane at once, or into the deferred set until it is due. The copy is written first and the
-- original acknowledged last, since Lua does not roll back.
--
-- KEYS  1 source (stream or lane)  2 lane  3 deferred (sorted set: packed copy -> ms when it is due)
-- ARGV  1 group  2 consumer  3 ID in the source  4 1 if the source is the lane  5 delay in ms  6 bound of lane and deferred set
--       7 uuid  8 metadata  9 payload
-- Result  0 done  1 no longer pending with this consumer  2 lane or deferred set is full
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) == 0 then return 1 end

-- What comes last is tried first, where it does nothing: a user without the right to it would leave another copy
-- each time.
redis.call('XACK', KEYS[1], ARGV[1], '0-0')
if ARGV[4] == '1' then redis.call('XDEL', KEYS[1], '0-0') end

local delay = tonumber(ARGV[5])
local bound = tonumber(ARGV[6])
if delay <= 0 then
  -- A copy that takes the place of its original in the lane makes it no longer.
  if ARGV[4] ~= '1' and redis.call('XLEN', KEYS[2]) >= bound then return 2 end
  redis.call('XADD', KEYS[2], '*', '_watermill_message_uuid', ARGV[7], 'metadata', ARGV[8], 'payload', ARGV[9])
else
  if redis.call('ZCARD', KEYS[3]) >= bound then return 2 end
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.ceil(time[2] / 1000) -- so that nothing is due too early
  redis.call('ZADD', KEYS[3], now + delay, cmsgpack.pack({ ARGV[7], ARGV[8], ARGV[9] }))
end

redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
if ARGV[4] == '1' then redis.call('XDEL', KEYS[1], ARGV[3]) end
return 0
