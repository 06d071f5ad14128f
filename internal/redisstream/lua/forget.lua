#!lua flags=allow-oom
-- Takes a pattern away from what a group takes, unless a live consumer says that it handles it: it
-- would bring the pattern back with its next beat, and what came until then would be acknowledged
-- unhandled.
--
-- KEYS  1 meta  2 alive
-- ARGV  1 group  2 pattern  3 how many ms late the next beat of a live consumer may be
--       4 1: only say what would be done  then the patterns of a consumer that names none
-- Result  version of the patterns, the patterns separated by spaces,
--         0 it was taken away  1 it is not among the patterns  2 a live consumer handles it
--         3 a live consumer has not said yet what it handles  4 the group takes nothing else
--         and the consumer of 2 and 3
local field, version = 'patterns:' .. ARGV[1], 'version:' .. ARGV[1]
local patterns = redis.call('HGET', KEYS[1], field) or ''

local function answer(result, consumer)
  return { tonumber(redis.call('HGET', KEYS[1], version) or 0), patterns, result, consumer or '' }
end

local left, found = {}, false
for p in patterns:gmatch('%S+') do
  if p == ARGV[2] then found = true else left[#left + 1] = p end
end
if not found then return answer(1) end

-- handles reports whether what a consumer says of itself names the pattern.
local function handles(about)
  local own = about.patterns
  if type(own) ~= 'table' or #own == 0 then own = { unpack(ARGV, 5) } end
  for _, p in ipairs(own) do
    if p == ARGV[2] then return true end
  end
  return false
end

local time = redis.call('TIME')
local since = time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[3]
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], since, '+inf')) do
  local text = redis.call('HGET', KEYS[1], 'consumer:' .. ARGV[1] .. ':' .. name)
  local read, about = pcall(cjson.decode, text or '')
  if not read or type(about) ~= 'table' then return answer(3, name) end
  if handles(about) then return answer(2, name) end
end
if #left == 0 then return answer(4) end
if ARGV[4] == '1' then return answer(0) end

patterns = table.concat(left, ' ')
redis.call('HSET', KEYS[1], field, patterns)
redis.call('HINCRBY', KEYS[1], version, 1)
return answer(0)
