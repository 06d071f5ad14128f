#!lua flags=no-writes,allow-oom
-- Describes a stream without what its entries hold: XINFO STREAM answers the first and the last one
-- whole.
--
-- KEYS  1 stream
-- Result  length, how many entries were ever added, the last ID that was given, the ID of the first
--         entry or an empty text; nothing where there is no stream
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
local info = redis.call('XINFO', 'STREAM', KEYS[1])
local about = {}
for i = 1, #info, 2 do about[info[i]] = info[i + 1] end
local first = about['first-entry']
local last = about['last-generated-id']
return { about['length'], about['entries-added'], last, first and first[1] or '' }
