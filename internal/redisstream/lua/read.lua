#!lua flags=allow-oom
-- Reads for a consumer from several streams and lanes in turn, up to a number of entries in all. A plain
-- XREADGROUP gives up to COUNT entries of each key, so whoever has room for one would get one of each.
--
-- KEYS  streams and lanes, in the order in which they have their turn
-- ARGV  1 group  2 consumer  3 most entries
-- Result  what XREADGROUP answers: for each key that has any, the key and its entries
local result = {}
local left = tonumber(ARGV[3])
for _, key in ipairs(KEYS) do
  local read = redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', left, 'STREAMS', key, '>')
  if read and read.err then
    if #result == 0 then return read end
    break -- what was read has to arrive; the next time says what is wrong
  end
  if read then
    result[#result + 1] = read[1]
    left = left - #read[1][2]
    if left <= 0 then break end
  end
end
return result
