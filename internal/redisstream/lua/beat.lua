#!lua flags=allow-oom
-- Says that a consumer lives, moves what is due and was forgotten from the deferred set to the lane, records the frontier, and reports on
-- the group. It reads no entry, and what it costs does not depend on how much there is of anything.
--
-- KEYS  1 alive (sorted set: consumer -> ms when its next beat is due, the last two bits of which say what it did: 1 it was idle, 2 it held
--         something of the stream; 0: it has left)  2 meta  3 deferred  4 lane  5 waiting  6 stream  7 flow (see failures.lua)
-- ARGV  1 group  2 consumer  3 in how many ms its next beat is due  4 the two bits  5 what it says of itself, empty: nothing new
--       6 version of the patterns that it knows  7 ID of the last entry of the stream that it was given, empty: none
--       8 1: all peers are asked for, else those whose next beat is due within so many ms: 9
--       10, 11, 12 most deliveries to move, most bytes, bound of the lane (see due.lua)
-- Result  version of the patterns, the patterns separated by spaces (empty where the version is the known one), what is written about the
--         pause of the group (empty: it is not paused), how many events wait for a consumer of their type, 1 if anything has failed
--         within the last minute, 1 if nothing stands there of what the consumer says of itself, how many deliveries are pending with it,
--         1 if something is pending with a consumer that does not beat, how many consumers beat, ms of the server's
--         clock, then consumer and score of each peer
--
-- The server's clock counts, so that consumers need no common one. There is no TTL: neither a stall nor an eviction
-- makes anybody look dead.
--
-- include id
-- include due
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = now + tonumber(ARGV[3])
redis.call('ZADD', KEYS[1], due - due % 4 + tonumber(ARGV[4]), ARGV[2])
local record = 'consumer:' .. ARGV[1] .. ':' .. ARGV[2]
if ARGV[5] ~= '' then redis.call('HSET', KEYS[2], record, ARGV[5]) end

-- What is pending, with whom. Where nothing is, that costs nothing.
local own, stranger = 0, 0
local function look(key)
  local pending = redis.pcall('XPENDING', key, ARGV[1])
  if pending.err then
    if pending.err:find('NOGROUP', 1, true) then return 0 end
    error(pending)
  end
  for _, of in ipairs(pending[4] or {}) do
    if of[1] == ARGV[2] then
      own = own + tonumber(of[2])
    elseif stranger == 0 and not redis.call('ZSCORE', KEYS[1], of[1]) then
      stranger = 1
    end
  end
  return pending[1], pending[2]
end
look(KEYS[4])
local pending, oldest = look(KEYS[6])

-- The frontier: everything up to it is settled. A group that is lost is made again there. It is the
-- ID just below the oldest pending one, whether an entry stands there or not: looking for the entry
-- before walks the whole stream where there is none, and reads a payload where there is. Where nothing
-- is pending it is the last entry that somebody was given. It is written only where it has moved, for
-- the sake of the append-only file.
local about = redis.call('HMGET', KEYS[2], 'version:' .. ARGV[1], 'paused:' .. ARGV[1], 'frontier:' .. ARGV[1], record)
local frontier = about[3]
if pending > 0 then
  frontier = before(oldest)
elseif not frontier then -- nobody has recorded it yet, and nobody need have been given anything
  local groups = redis.call('EXISTS', KEYS[6]) == 1 and redis.call('XINFO', 'GROUPS', KEYS[6]) or {}
  for _, g in ipairs(groups) do
    local of = {}
    for i = 1, #g, 2 do of[g[i]] = g[i + 1] end
    if of['name'] == ARGV[1] then frontier = of['last-delivered-id'] end
  end
elseif ARGV[7] ~= '' and behind(ARGV[7], frontier) then
  frontier = ARGV[7]
end
if frontier ~= about[3] then redis.call('HSET', KEYS[2], 'frontier:' .. ARGV[1], frontier) end

-- Those who defer deliveries have them moved when they are due. What is due now was deferred by somebody who is gone, or is about to be
-- moved.
local waiting, failing = 0, 0
if redis.call('EXISTS', KEYS[3], KEYS[5], KEYS[7]) > 0 then
  if redis.call('ZCOUNT', KEYS[3], '-inf', now) > 0 then
    promoteDue(KEYS[3], KEYS[4], now, tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]))
  end
  waiting, failing = redis.call('ZCARD', KEYS[5]), redis.call('EXISTS', KEYS[7])
end

local version = tonumber(about[1] or 0)
local result = {
  version, version ~= tonumber(ARGV[6]) and redis.call('HGET', KEYS[2], 'patterns:' .. ARGV[1]) or '', about[2] or '',
  waiting, failing, about[4] and 0 or 1, own, stranger, redis.call('ZCARD', KEYS[1]), now,
}
local soon = ARGV[8] == '1' and '+inf' or now + tonumber(ARGV[9])
local peers = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', soon, 'WITHSCORES')
for i = 1, #peers, 2 do
  if peers[i] ~= ARGV[2] then
    result[#result + 1] = peers[i]
    result[#result + 1] = peers[i + 1]
  end
end
return result
