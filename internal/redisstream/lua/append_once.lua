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
local at = time[1] * 1000 + math.floor(time[2] / 1000)

-- What is there already, and what is appended: nothing is written yet.
local result, add, more = {}, {}, 0
for i = 5, #ARGV, 6 do
  local key, n = ARGV[i + 3], (i + 1) / 6
  local until_ = redis.call('ZSCORE', KEYS[3], key)
  local what = until_ and tonumber(until_) > at and redis.call('HGET', KEYS[4], key)
  if what then
    local position, id, print, of = what:match('^(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)$')
    local other = print ~= '' and ARGV[i + 5] ~= '' and print ~= ARGV[i + 5]
    result[n] = { other and 2 or of == ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. i and 0 or 1, position, id }
  elseif repeated then
    result[n] = { 0, '', ARGV[i] } -- stored by the first time, and its key had to go since
  elseif not add[key] then
    add[key], more = true, more + 1
  end
end

local function forget(keys)
  if #keys == 0 then return end
  redis.call('HDEL', KEYS[4], unpack(keys))
  redis.call('ZREM', KEYS[3], unpack(keys))
end
forget(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', at, 'LIMIT', 0, 1000))
if repeated then return { last, result } end
local surplus = math.min(redis.call('ZCARD', KEYS[3]) + more - tonumber(ARGV[4]), 1000)
if surplus > 0 then
  local keys = redis.call('ZRANGE', KEYS[3], 0, surplus - 1)
  redis.call('HINCRBY', KEYS[5], 'seenlost', 0) -- tried first, where it changes nothing: what is forgotten is to be counted
  forget(keys)
  redis.call('HINCRBY', KEYS[5], 'seenlost', #keys)
end
local meta, limit = KEYS[5], ARGV[3]
-- include trim
if not mark then
  -- include marks
end
-- include writable
redis.call('ZADD', KEYS[3], 'XX', 0, '')
redis.call('HDEL', KEYS[4], '')

local first
local stored = {}
for i = 5, #ARGV, 6 do
  local key, n = ARGV[i + 3], (i + 1) / 6
  local same = stored[key]
  if same then -- for the second time in this call
    result[n] = { same.print ~= '' and ARGV[i + 5] ~= '' and same.print ~= ARGV[i + 5] and 2 or 1, same.position, same.id }
  elseif not result[n] then
    local position = redis.call('XADD', KEYS[1], '*',
      '_watermill_message_uuid', ARGV[i], 'metadata', ARGV[i + 1], 'payload', ARGV[i + 2])
    first = first or position
    stored[key] = { position = position, id = ARGV[i], print = ARGV[i + 5] }
    redis.call('ZADD', KEYS[3], at + tonumber(ARGV[i + 4]), key)
    redis.call('HSET', KEYS[4], key, table.concat({ position, ARGV[i], ARGV[i + 5], ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. i }, '\0'))
    result[n] = { 0, position, ARGV[i] }
  end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. (first or at .. '-0'))
return { last, result }
