#!lua flags=allow-oom
-- Says that a consumer lives, moves what is due from the deferred set to the lane, records the frontier, and reports on the group.
--
-- KEYS  1 alive (sorted set: consumer -> ms of its last beat, odd where it was idle, 0: it has left)  2 meta  3 deferred  4 lane  5 waiting  6 stream
--       7 flow (see failures.lua)
-- ARGV  1 group  2 consumer  3 most deliveries to move at once  4 what the consumer says of itself, empty: nothing new
--       5 1 if it has free places, and nothing that waits for one
-- Result  version of the patterns, the patterns separated by spaces, ms until the next delivery is due (-1: none is deferred), how many
--         events wait for a consumer of their type, what is written about the pause of the group (empty: it is not paused), 1 if
--         anything has failed within the last minute, then consumer and beat of each peer
--
-- The server's clock counts, so that consumers need no common one. There is no TTL: neither a stall nor an eviction
-- makes anybody look dead.
--
-- include id
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now - now % 2 + tonumber(ARGV[5]), ARGV[2]) -- odd: it is idle
if ARGV[4] ~= '' then redis.call('HSET', KEYS[2], 'consumer:' .. ARGV[1] .. ':' .. ARGV[2], ARGV[4]) end

-- The frontier: everything up to it is settled. A group that is lost is made again there. It is the
-- ID just below the oldest pending one, whether an entry stands there or not: looking for the entry
-- before walks the whole stream where there is none, and reads a payload where there is. It is
-- written only where it has moved, for the sake of the append-only file.
local groups = redis.call('EXISTS', KEYS[6]) == 1 and redis.call('XINFO', 'GROUPS', KEYS[6]) or {}
for _, g in ipairs(groups) do
  local about = {}
  for i = 1, #g, 2 do about[g[i]] = g[i + 1] end
  if about['name'] == ARGV[1] then
    local frontier = about['last-delivered-id']
    if about['pending'] > 0 then
      frontier = before(redis.call('XPENDING', KEYS[6], ARGV[1])[2])
    end
    if redis.call('HGET', KEYS[2], 'frontier:' .. ARGV[1]) ~= frontier then
      redis.call('HSET', KEYS[2], 'frontier:' .. ARGV[1], frontier)
    end
  end
end

local due = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, ARGV[3])
-- What comes last is tried first, where it does nothing: a user without the right to it would leave another copy
-- each time.
if #due > 0 then redis.call('ZREM', KEYS[3], '') end
for _, member in ipairs(due) do
  local m = cmsgpack.unpack(member)
  redis.call('XADD', KEYS[4], '*', '_watermill_message_uuid', m[1], 'metadata', m[2], 'payload', m[3])
  redis.call('ZREM', KEYS[3], member)
end
local head = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
local wait = -1
if head[2] then wait = math.max(0, tonumber(head[2]) - now) end

local about = redis.call('HMGET', KEYS[2], 'version:' .. ARGV[1], 'patterns:' .. ARGV[1], 'paused:' .. ARGV[1])
local result = {
  tonumber(about[1] or 0), about[2] or '', wait, redis.call('ZCARD', KEYS[5]), about[3] or '',
  redis.call('EXISTS', KEYS[7]),
}
local peers = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #peers, 2 do
  if peers[i] ~= ARGV[2] then
    result[#result + 1] = peers[i]
    result[#result + 1] = peers[i + 1]
  end
end
return result
