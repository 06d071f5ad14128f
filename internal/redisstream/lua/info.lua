#!lua flags=no-writes,allow-oom
-- Describes a stream without what its entries hold: XINFO STREAM answers the first and the last one
-- whole.
--
-- KEYS  1 stream
-- Result  length, how many entries were ever added, the last ID that was given, the ID of the first
--         entry or an empty text; then for each group that has not got all entries its name and the
--         ID of the next one, those that are farthest behind first. Nothing where there is no stream.
--         The next entries are read whole, so it stops after 1 MiB of them: some groups may be missing
--
-- include id
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
local function map(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end
local about = map(redis.call('XINFO', 'STREAM', KEYS[1]))
local first, last = about['first-entry'], about['last-generated-id']
local result = { about['length'], about['entries-added'], last, first and first[1] or '' }
local groups = {}
for i, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do groups[i] = map(flat) end
table.sort(groups, function(a, b) return behind(b['last-delivered-id'], a['last-delivered-id']) end)
local places, bytes = {}, 1024 * 1024 -- the next IDs, by where a group stands
for _, group in ipairs(groups) do
  local place = group['last-delivered-id']
  if place ~= last and not places[place] and bytes > 0 then
    local entry = redis.call('XRANGE', KEYS[1], '(' .. place, '+', 'COUNT', 1)[1]
    places[place] = entry and entry[1] or ''
    for _, field in ipairs(entry and entry[2] or {}) do bytes = bytes - #field end
  end
  if places[place] and places[place] ~= '' then
    result[#result + 1] = group['name']
    result[#result + 1] = places[place]
  end
end
return result
