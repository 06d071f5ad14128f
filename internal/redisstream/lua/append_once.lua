#!lua
-- Appends messages to a stream as append.lua does, each only where none with its key was appended within its window.
--
-- KEYS  1 stream  2 writers  3 seen (sorted set: key -> ms when it is forgotten)
--       4 seen:what (hash: key -> position, event ID, fingerprint, append that did it, separated by NUL)  5 meta
-- ARGV  1 writer  2 sequence  3 emergency limit of the stream's length  4 most keys to remember
--       then for each message: uuid, metadata, payload, key, window in ms, fingerprint
-- Result  the writer's last sequence until now, 0 if it had none; and for each message: 0 appended, 1 was there already, 2 the key was used for
--         something else (an empty fingerprint is like any); its position; its event ID. A repetition of the writer's last sequence is answered like the first time. Error
--         STALE: an earlier sequence, a packet that came late.
local mark = redis.call('HGET', KEYS[2], ARGV[1])
local last = mark and tonumber(mark:match('^%d+')) or 0
local sequence = tonumber(ARGV[2])
if sequence < last then
  return redis.error_reply('STALE append ' .. ARGV[2] .. ' of writer ' .. ARGV[1] .. ', which is at ' .. last)
end
local repeated = mark and sequence == last

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function forget(keys)
  for _, key in ipairs(keys) do
    redis.call('ZREM', KEYS[3], key)
    redis.call('HDEL', KEYS[4], key)
  end
end
forget(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 1000))

local result = {}
local first
for i = 5, #ARGV, 6 do
  local key, tag = ARGV[i + 3], ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. i
  local until_ = redis.call('ZSCORE', KEYS[3], key)
  local what = until_ and tonumber(until_) > now and redis.call('HGET', KEYS[4], key)
  if what then
    local position, id, print, of = what:match('^(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)$')
    local other = print ~= '' and ARGV[i + 5] ~= '' and print ~= ARGV[i + 5]
    result[#result + 1] = { other and 2 or of == tag and 0 or 1, position, id }
  elseif repeated then
    result[#result + 1] = { 0, '', ARGV[i] } -- stored by the first time, and its key had to go since
  else
    local position = redis.call('XADD', KEYS[1], '*',
      '_watermill_message_uuid', ARGV[i], 'metadata', ARGV[i + 1], 'payload', ARGV[i + 2])
    first = first or position
    redis.call('ZADD', KEYS[3], now + tonumber(ARGV[i + 4]), key)
    redis.call('HSET', KEYS[4], key, position .. '\0' .. ARGV[i] .. '\0' .. ARGV[i + 5] .. '\0' .. tag)
    result[#result + 1] = { 0, position, ARGV[i] }
  end
end
if not repeated then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. (first or now .. '-0'))
end
local meta, limit = KEYS[5], ARGV[3]
-- include trim
local surplus = redis.call('ZCARD', KEYS[3]) - tonumber(ARGV[4])
if surplus > 0 then
  forget(redis.call('ZRANGE', KEYS[3], 0, surplus - 1))
  redis.call('HINCRBY', KEYS[5], 'seenlost', surplus)
end
return { last, result }
