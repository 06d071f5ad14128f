#!lua flags=allow-oom
-- Takes what consumers that do not beat, which are other software's, have left pending for long.
--
-- KEYS  1 stream  2 lane  3 alive  4 meta
-- ARGV  1 group  2 consumer  3 ms after which a delivery of a consumer without a beat is taken
--       4 most deliveries to take  5 most pending entries to look at, of each key
--       6, 7 where to begin in the stream and in the lane: as the last call answered, or '-'
--       8 about how many bytes of their entries to take
-- Result  where the next call is to begin in the stream and in the lane, then deliveries as
--         takeover.lua answers them
--
-- XPENDING with IDLE looks at every entry that is too young. So a call looks at a part of the list,
-- whatever its age, and the next call goes on behind it: an old entry behind many young ones is
-- found in its turn. The front of the list, where the old ones stand as a rule, is looked at by
-- every call.
local front = 100
local idle = tonumber(ARGV[3])
local left, bytes = tonumber(ARGV[4]), tonumber(ARGV[8])
local found = {}

-- strangers returns the consumers of a key that hold something and do not beat, as a set, or nil
-- where there are none.
local function strangers(key)
  local set
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', key, ARGV[1])) do
    local about = {}
    for i = 1, #consumer, 2 do about[consumer[i]] = consumer[i + 1] end
    if about['pending'] > 0 and not redis.call('ZSCORE', KEYS[3], about['name']) then
      set = set or {}
      set[about['name']] = true
    end
  end
  return set
end

local function take(lane, id, count)
  local key = KEYS[lane + 1]
  local entry = redis.call('XRANGE', key, id, id)[1]
  if entry then
    redis.call('XCLAIM', key, ARGV[1], ARGV[2], 0, id, 'JUSTID')
  else
    redis.call('XACK', key, ARGV[1], '0-0') -- without the right to it, it would be counted each time
    redis.call('HINCRBY', KEYS[4], 'lost:' .. ARGV[1], 1)
    redis.call('XACK', key, ARGV[1], id)
  end
  found[#found + 1] = { lane, id, entry and entry[2] or false, count }
  left = left - 1
  for _, field in ipairs(entry and entry[2] or {}) do bytes = bytes - #field end
end

-- look takes the old ones of some pending entries and returns where to go on.
local function look(lane, set, from, most)
  local rows = redis.call('XPENDING', KEYS[lane + 1], ARGV[1], from, '+', most)
  for _, row in ipairs(rows) do
    if left == 0 or bytes <= 0 then return from end
    if set[row[2]] and row[3] >= idle then take(lane, row[1], row[4]) end
    from = '(' .. row[1]
  end
  return #rows == tonumber(most) and from or '-'
end

local begin = { '-', '-' }
for lane = 0, 1 do
  local set = strangers(KEYS[lane + 1])
  if set then
    local from = ARGV[lane + 6]
    if from ~= '-' then look(lane, set, '-', front) end
    begin[lane + 1] = look(lane, set, from, ARGV[5])
  end
end
return { begin[1], begin[2], unpack(found) }
