-- Trims the stream KEYS[1] if more entries than it has room for up to its limit are about to come, and adds
-- what each group loses thereby to lost:GROUP in meta. The scripts that append include it before the append: it
-- may fail. While the stream is going to be less than 100 entries beyond its limit, the most that Redis packs
-- into a node, nothing but its length is asked for, and no function is made: five would cost a small append 5 %.
--
-- MAXLEN at XADD would stand in the append-only file with the length at this moment. Where that was cut within a
-- transaction, Redis executes its first half together with the next one at the second start after: with an entry more,
-- so the oldest one would be trimmed for it.
--
-- Lost to a group are the entries that are removed behind its last-delivered-id. Those before it
-- have been delivered: if they are pending still, whoever comes upon them counts them (lose.lua,
-- takeover.lua). Groups of other software, for which meta has no patterns, may have marked their
-- place somewhere else: nothing is counted for them.
--
-- How many entries stand before a group can't be taken from XINFO GROUPS: after a loss,
-- entries-read is what the group has read on some servers (7.0), and on others how many were added
-- until there. So they are counted while they go: the groups come in the order of their places, and
-- what is removed up to the place of the next one is lost to those before it. Only the node in
-- which a group stands is read. Where a server packs more than 1,000 entries into a node a group
-- may be told too many, never too few.
--
-- XTRIM by MINID with LIMIT writes IDs to the append-only file, where MAXLEN would write a length
-- (ADR 0008); with ~ and LIMIT it removes whole nodes from the front, as many as fit into the
-- limit.
local length = redis.call('XLEN', KEYS[1])
local over = length + more - limit
if over >= 100 and length > 0 then
  -- include id
  over = math.min(over, 10000) -- a script must not hold the server up; the next append goes on

  local places, groups = {}, {} -- the places of our groups, and the groups by place
  for _, g in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local about = {}
    for i = 1, #g, 2 do about[g[i]] = g[i + 1] end
    local place = about['last-delivered-id']
    if redis.call('HEXISTS', meta, 'patterns:' .. about['name']) == 1 then
      if not groups[place] then
        groups[place] = {}
        places[#places + 1] = place
      end
      table.insert(groups[place], about['name'])
    end
  end
  table.sort(places, function(a, b) return behind(b, a) end)

  -- What comes last is tried first, where it changes nothing: without the right to it, what is trimmed would not be counted.
  if places[1] then redis.call('HINCRBY', meta, 'lost:' .. groups[places[1]][1], 0) end
  local removed = 0
  local function remove(id)
    if removed < over then
      removed = removed + redis.call('XTRIM', KEYS[1], 'MINID', '~', id, 'LIMIT', over - removed)
    end
  end
  local passed = {} -- how many of the entries stand up to each place
  for i, place in ipairs(places) do
    remove(place)
    if removed == over then break end -- no more goes, so nobody from here on loses anything
    local left = redis.call('XRANGE', KEYS[1], '-', place, 'COUNT', math.min(over - removed, 1000))
    passed[i] = removed + #left
    if passed[i] >= over then break end
  end
  remove('18446744073709551615-18446744073709551615')
  for i, n in ipairs(passed) do
    if removed > n then
      for _, name in ipairs(groups[places[i]]) do
        redis.call('HINCRBY', meta, 'lost:' .. name, removed - n)
      end
    end
  end
end
