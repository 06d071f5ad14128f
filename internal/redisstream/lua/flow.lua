#!lua flags=allow-oom
-- Adds what a consumer has handled to the record of its group, if there is one, and sums the record up.
-- What is too old goes in passing, and the record with the last failure.
--
-- KEYS  1 flow  2 failed (see failures.lua)
-- ARGV  1 consumer  2 how many deliveries it has handled since it said so last  3 1: what stands in the
--       record of this consumer is forgotten first
-- Result  for how many ms the record has been there, then for each consumer and fingerprint both,
--         separated by a blank, and how many events; nothing where there is no record
--
-- include failures
local record = redis.call('HGETALL', KEYS[1])
if #record == 0 then return {} end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local oldest = sliceOf(now) - slices + 1
local sums, begun, fails = {}, now, false
for i = 1, #record, 2 do
  local slice, rest = record[i]:match('^(%d+) (.+)$')
  local consumer, print = (rest or ''):match('^(%S+) (%S+)$')
  if record[i] == 'begun' then
    begun = tonumber(record[i + 1])
  elseif not consumer or tonumber(slice) < oldest or ARGV[3] == '1' and consumer == ARGV[1] then
    redis.call('HDEL', KEYS[1], record[i])
  else
    sums[rest] = (sums[rest] or 0) + tonumber(record[i + 1])
    fails = fails or print ~= '+'
  end
end
if not fails then
  forgetFailures(KEYS[1], KEYS[2])
  return {}
end
local handled = tonumber(ARGV[2])
if handled > 0 then
  redis.call('HINCRBY', KEYS[1], sliceOf(now) .. ' ' .. ARGV[1] .. ' +', handled)
  sums[ARGV[1] .. ' +'] = (sums[ARGV[1] .. ' +'] or 0) + handled
end
local result = { now - begun }
for of, events in pairs(sums) do
  result[#result + 1] = of
  result[#result + 1] = events
end
return result
