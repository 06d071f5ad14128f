#!lua
-- Appends messages that were spooled, if the last append of their spool to this stream is the one that the caller knows of: so neither a crash of the
-- drain nor a packet that comes late stores anything twice.
--
-- KEYS  1 stream  2 writers (see append.lua)  3 meta
-- ARGV  1 spool  2 sequence of the last append that the caller knows of, 0: of none  3 sequence of this one  4 emergency limit of the
--       stream's length  then for each message: uuid, metadata, payload
-- Result  1 appended, 0 the last append is another one and nothing was done; the sequence of the last append; the ID of the first message
local mark = redis.call('HGET', KEYS[2], ARGV[1])
local last = mark and mark:match('^%d+') or '0'
if last ~= ARGV[2] then return { 0, last, '' } end
local meta, limit, more = KEYS[3], ARGV[4], (#ARGV - 4) / 3
-- include trim
if not mark then
  -- include marks
end
-- include writable
local first = redis.call('XADD', KEYS[1], '*',
  '_watermill_message_uuid', ARGV[5], 'metadata', ARGV[6], 'payload', ARGV[7])
local auto = first:match('^%d+') .. '-*' -- on Redis 7.0 the time of '*' goes on within a script
for i = 8, #ARGV, 3 do
  redis.call('XADD', KEYS[1], auto, '_watermill_message_uuid', ARGV[i], 'metadata', ARGV[i + 1], 'payload', ARGV[i + 2])
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3] .. ' ' .. first)
return { 1, ARGV[3], first }
