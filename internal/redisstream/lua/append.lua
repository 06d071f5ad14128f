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
-- Without flags a script is refused as a whole under OOM, so messages are appended all or none.
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

local first = redis.call('XADD', KEYS[1], '*',
  '_watermill_message_uuid', ARGV[4], 'metadata', ARGV[5], 'payload', ARGV[6])
local ms = first:match('^%d+')
local auto = ms .. '-*'
for i = 7, #ARGV, 3 do
  redis.call('XADD', KEYS[1], auto, '_watermill_message_uuid', ARGV[i], 'metadata', ARGV[i + 1], 'payload', ARGV[i + 2])
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. first)
-- MAXLEN at XADD would stand in the append-only file with the length at this moment. Where that was cut within a transaction, Redis executes its first half
-- together with the next one at the second start after: with an entry more, so the oldest one would be trimmed for it.
local meta, limit = KEYS[3], ARGV[3]
-- include trim

-- A new writer pays for the old ones: a sample of the marks is looked at, and those of 30 days ago go. A process has a
-- new writer at each start, so the hash stays about as large as the number of starts in 30 days.
if not mark then
  local now = tonumber(redis.call('TIME')[1]) * 1000 -- not the stream's clock, which an entry of the future carries away
  local sample = redis.call('HRANDFIELD', KEYS[2], 32, 'WITHVALUES')
  for i = 1, #sample, 2 do
    local at = sample[i + 1]:match(' (%d+)')
    if tonumber(at) < now - 2592000000 then
      redis.call('HDEL', KEYS[2], sample[i])
    end
  end
end
return first .. ' ' .. last
