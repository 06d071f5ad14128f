#!lua flags=allow-oom
-- Gives a delivery up: its entry goes to the dead letters of the group, with a report on what happened, and the delivery is acknowledged.
-- The copy is written first and the original acknowledged last, since Lua does not roll back.
--
-- KEYS  1 source (stream or lane)  2 stream  3 dead (stream: the fields of the original entry, then millrace_dead)  4 meta
-- ARGV  1 group  2 consumer  3 ID in the source  4 1 if the source is the lane  5 ID of the original in the stream  6 most dead letters
--       7 their greatest age in ms  8 report  then what the consumer has of the entry, should the original be gone:  9 uuid  10 metadata  11 payload
-- Result  -1 no longer pending with this consumer, else how many older dead letters were dropped
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) == 0 then return -1 end

-- What comes last is tried first, where it does nothing: a user without the right to it would leave another copy
-- each time.
redis.call('XACK', KEYS[1], ARGV[1], '0-0')
if ARGV[4] == '1' then redis.call('XDEL', KEYS[1], '0-0') end
redis.call('XTRIM', KEYS[3], 'MINID', '0-0')

local time = redis.call('TIME')
local oldest = time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(ARGV[7])
local entry = redis.call('XRANGE', KEYS[2], ARGV[5], ARGV[5])[1]
local fields = entry and entry[2]
if fields then
  for i = 1, #fields, 2 do
    -- A stream that was made anew may hold another event at this ID.
    if fields[i] == '_watermill_message_uuid' and fields[i + 1] ~= ARGV[9] then fields = nil break end
  end
end
if not fields or #fields > 4000 then -- more than Lua takes as arguments
  fields = { '_watermill_message_uuid', ARGV[9], 'metadata', ARGV[10], 'payload', ARGV[11] }
end
fields[#fields + 1] = 'millrace_dead'
fields[#fields + 1] = ARGV[8]
redis.call('XADD', KEYS[3], '*', unpack(fields))

local dropped = redis.call('XTRIM', KEYS[3], 'MAXLEN', ARGV[6])
  + redis.call('XTRIM', KEYS[3], 'MINID', string.format('%d-0', math.max(0, oldest)))

redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
if ARGV[4] == '1' then redis.call('XDEL', KEYS[1], ARGV[3]) end
if dropped > 0 then redis.call('HINCRBY', KEYS[4], 'deadlost:' .. ARGV[1], dropped) end
return dropped
