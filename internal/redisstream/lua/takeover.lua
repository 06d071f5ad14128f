#!lua flags=allow-oom
-- Moves deliveries of a dead or departed consumer to another one, if the dead one's beat is still the one that was seen.
-- When it holds nothing any more it is removed, here, where nothing can become pending in between. That a
-- consumer has died, when, and how much was taken from it is kept in meta, for reports.
--
-- KEYS  1 stream  2 lane  3 alive  4 meta
-- ARGV  1 group  2 consumer  3 peer  4 beat of the peer that was seen  5 most deliveries to move at once
--       6 most bytes of their entries, as far as more than one is moved
-- Result  for each delivery: 0 (stream) or 1 (lane), its ID, its fields or nil where it is no longer in the stream (it is counted as lost
--         then), how often it was delivered
--
-- JUSTID leaves the delivery count as it is: having been prefetched by a process that died is not a crash of the event.
local beat = redis.call('ZSCORE', KEYS[3], ARGV[3])
if not beat or tonumber(beat) ~= tonumber(ARGV[4]) then return {} end

local result = {}
local left, bytes = tonumber(ARGV[5]), tonumber(ARGV[6])
local all = true
for lane = 0, 1 do
  local key = KEYS[lane + 1]
  local pending = left > 0 and redis.call('XPENDING', key, ARGV[1], '-', '+', left, ARGV[3]) or {}
  if #pending == left then all = false end -- there may be more
  for _, p in ipairs(pending) do
    local id = p[1]
    local entry = redis.call('XRANGE', key, id, id)[1]
    for _, field in ipairs(entry and entry[2] or {}) do bytes = bytes - #field end
    if bytes < 0 and #result > 0 then all = false left = 0 break end
    if entry then
      redis.call('XCLAIM', key, ARGV[1], ARGV[2], 0, id, 'JUSTID')
      result[#result + 1] = { lane, id, entry[2], p[4] }
    else
      -- Redis 7.0 would drop it from the pending list without a word when it is claimed.
      redis.call('XACK', key, ARGV[1], '0-0') -- without the right to it, it would be counted each time
      redis.call('HINCRBY', KEYS[4], 'lost:' .. ARGV[1], 1)
      redis.call('XACK', key, ARGV[1], id)
      result[#result + 1] = { lane, id, false, p[4] }
    end
  end
  left = math.max(0, left - #pending)
end

if #result > 0 and tonumber(ARGV[4]) > 0 then -- else it has left
  local field = 'died:' .. ARGV[1]
  local before, name = (redis.call('HGET', KEYS[4], field) or ''):match('^%d+ (%d+) (.*)$')
  local taken = #result + (name == ARGV[3] and tonumber(before) or 0)
  redis.call('HSET', KEYS[4], field, string.format('%s %d %s', redis.call('TIME')[1], taken, ARGV[3]))
end
if all then
  redis.call('ZREM', KEYS[3], ARGV[3])
  redis.call('HDEL', KEYS[4], 'consumer:' .. ARGV[1] .. ':' .. ARGV[3])
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[3])
  redis.call('XGROUP', 'DELCONSUMER', KEYS[2], ARGV[1], ARGV[3])
end
return result
