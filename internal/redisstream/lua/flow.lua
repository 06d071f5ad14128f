#!lua flags=allow-oom
-- Adds what a consumer has handled to the record of its group, if there is one, and sums the record up for
-- a consumer that asks for it. A record without a failure within its time ends here; what is too old goes
-- once per slice of time.
--
-- KEYS  1 flow  2 failed (see failures.lua)
-- ARGV  1 consumer  2 how many deliveries it has handled since it said so last  3 1: what stands in the
--       record of this consumer is forgotten first  4 1: the sums are asked for
-- Result  for how many ms the record has been there, then for each consumer and fingerprint both,
--         separated by a blank, and how many events; nothing where there is no record
--
-- include failures
local about = redis.call('HMGET', KEYS[1], 'begun', 'last', 'swept')
if not about[1] then return {} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local slice = sliceOf(now)
if tonumber(about[2] or 0) <= slice - slices then
  forgetFailures(KEYS[1], KEYS[2])
  return {}
end
local anew = ARGV[3] == '1'
if anew or about[3] ~= tostring(slice) then
  local fails = false
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    local of, consumer, print = field:match('^(%d+) (%S+) (%S+)$')
    if of and (tonumber(of) <= slice - slices or anew and consumer == ARGV[1]) then
      redis.call('HDEL', KEYS[1], field)
    elseif of and print ~= '+' then
      fails = true
    end
  end
  if anew and not fails then
    forgetFailures(KEYS[1], KEYS[2])
    return {}
  end
  redis.call('HSET', KEYS[1], 'swept', slice)
end

local handled = tonumber(ARGV[2])
if handled > 0 then redis.call('HINCRBY', KEYS[1], slice .. ' ' .. ARGV[1] .. ' +', handled) end
local result = { now - tonumber(about[1]) }
if ARGV[4] ~= '1' then return result end
local sums = {}
local record = redis.call('HGETALL', KEYS[1])
for i = 1, #record, 2 do
  local of = record[i]:match('^%d+ (.+)$')
  if of then sums[of] = (sums[of] or 0) + tonumber(record[i + 1]) end
end
for of, events in pairs(sums) do
  result[#result + 1] = of
  result[#result + 1] = events
end
return result
