#!lua
-- Appends messages to a stream, once per writer and sequence.
--
-- KEYS  1 stream  2 writers (hash: writer -> "sequence firstID")  3 meta
-- ARGV  1 writer  2 sequence  3 emergency limit of the stream's length
--       then for each message: uuid, metadata, payload
-- Result  the ID of the first message, the others follow it with consecutive sequence numbers; and the writer's last sequence until now, 0
--         if it had none. A repetition of that one appends nothing and gets the same ID. Error STALE: an earlier sequence, a packet
--         that came late.
--
-- Without flags a script is refused as a whole under OOM, so messages are appended all or none. For the same reason nothing can fail behind the
-- first XADD: all that needs another right comes before it.
local mark = redis.call('HGET', KEYS[2], ARGV[1])
local last = 0
if mark then
  local first
  last, first = mark:match('^(%d+) (%S+)$')
  local number, sequence = tonumber(last), tonumber(ARGV[2])
  if sequence == number then
    return first .. ' ' .. last
  elseif sequence < number then
    return redis.error_reply('STALE append ' .. ARGV[2] .. ' of writer ' .. ARGV[1] .. ', which is at ' .. last)
  end
end

local meta, limit, more = KEYS[3], ARGV[3], (#ARGV - 3) / 3
-- include trim
if not mark then
  -- include marks
end
-- include writable
local first = redis.call('XADD', KEYS[1], '*',
  '_watermill_message_uuid', ARGV[4], 'metadata', ARGV[5], 'payload', ARGV[6])
local auto = #ARGV > 6 and first:match('^%d+') .. '-*' -- on Redis 7.0 the time of '*' goes on within a script
for i = 7, #ARGV, 3 do
  redis.call('XADD', KEYS[1], auto, '_watermill_message_uuid', ARGV[i], 'metadata', ARGV[i + 1], 'payload', ARGV[i + 2])
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. first)
return first .. ' ' .. last
