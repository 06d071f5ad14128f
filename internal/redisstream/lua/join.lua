#!lua flags=allow-oom
-- Gives a consumer its place in a group: makes the group and its lane where they are missing, adds patterns to what the group
-- takes, beats for the first time. A group that was there before and is gone is made again at its frontier (see beat.lua): what it has not
-- settled comes again, and nothing else; or at the start, where the stream is not the one that the frontier was recorded for.
--
-- KEYS  1 stream  2 lane  3 meta  4 alive
-- ARGV  1 group  2 consumer  3 start: an ID that the group starts behind, or $  4 in how many ms the next beat is due  then patterns
-- Result  version of the patterns, all patterns separated by spaces, where the group was made to begin if it was made now, else an empty text,
--         what is written about the pause of the group (empty: it is not paused)
--
-- XGROUP CREATE is refused under OOM unless the script may run then: a consumer that can't join could never free anything.
--
-- include id
local function create(key, start, read)
  local reply = redis.pcall('XGROUP', 'CREATE', key, ARGV[1], start, 'MKSTREAM', 'ENTRIESREAD', read)
  if type(reply) == 'table' and reply.err then
    if reply.err:find('BUSYGROUP', 1, true) then return 0 end
    return reply
  end
  return 1
end

-- ENTRIESREAD tells the server how many entries the group has behind it, so that it can tell the lag.
local start, read = ARGV[3], 0
local frontier = redis.call('HGET', KEYS[3], 'frontier:' .. ARGV[1])
if frontier then start = '0-0' end
if redis.call('EXISTS', KEYS[1]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  local field = {}
  for i = 1, #info, 2 do field[info[i]] = info[i + 1] end
  local added, length = field['entries-added'], field['length']
  if frontier and not behind(frontier, field['last-generated-id']) then start = frontier end
  local first = field['first-entry'] and field['first-entry'][1]
  if start == '$' or not behind(field['last-generated-id'], start) then read = added
  elseif start == '0-0' or first and behind(first, start) then read = added - length
  else read = -1 end
end
local made = create(KEYS[1], start, read)
if type(made) == 'table' then return made end
local lane = create(KEYS[2], '0', 0)
if type(lane) == 'table' then return lane end

local field = 'patterns:' .. ARGV[1]
local patterns = redis.call('HGET', KEYS[3], field) or ''
local changed = false
for i = 5, #ARGV do
  if not (' ' .. patterns .. ' '):find(' ' .. ARGV[i] .. ' ', 1, true) then
    patterns = patterns == '' and ARGV[i] or patterns .. ' ' .. ARGV[i]
    changed = true
  end
end
if changed then
  redis.call('HSET', KEYS[3], field, patterns)
  redis.call('HINCRBY', KEYS[3], 'version:' .. ARGV[1], 1)
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if made == 1 then redis.call('HSET', KEYS[3], 'since:' .. ARGV[1], now) end
local due = now + tonumber(ARGV[4])
redis.call('ZADD', KEYS[4], due - due % 4, ARGV[2])
return { tonumber(redis.call('HGET', KEYS[3], 'version:' .. ARGV[1]) or 0), patterns, made == 1 and start or '',
  redis.call('HGET', KEYS[3], 'paused:' .. ARGV[1]) or '' }
