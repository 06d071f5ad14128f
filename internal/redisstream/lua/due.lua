-- A function on the deferred set of a group, which other scripts include.

-- promoteDue moves what is due from the deferred set to the lane, the first due first: up to most
-- deliveries, and about as many bytes, but at least one, and no more than the bound of the lane leaves
-- room for. It returns how many it has moved, and in how many ms the next one is due (-1: none is
-- deferred; that of what finds no room is 0).
local function promoteDue(deferred, lane, now, most, bytes, bound)
  local moved = 0
  most = math.min(most, bound - redis.call('XLEN', lane))
  local head = redis.call('ZRANGE', deferred, 0, 0, 'WITHSCORES')
  -- What comes last is tried first, where it does nothing: a user without the right to it would leave another
  -- copy each time.
  if head[2] and tonumber(head[2]) <= now then redis.call('ZREM', deferred, '') end
  while head[2] and tonumber(head[2]) <= now and moved < most and (bytes > 0 or moved == 0) do
    -- As many at once as there would be room for if all were as large as the first: the others are looked
    -- at before they are moved.
    local some = math.max(1, math.min(50, most - moved, math.floor(bytes / #head[1])))
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', deferred, '-inf', now, 'LIMIT', 0, some)) do
      bytes = bytes - #member
      if bytes < 0 and moved > 0 then break end
      local m = cmsgpack.unpack(member)
      redis.call('XADD', lane, '*', '_watermill_message_uuid', m[1], 'metadata', m[2], 'payload', m[3])
      redis.call('ZREM', deferred, member)
      moved = moved + 1
    end
    head = redis.call('ZRANGE', deferred, 0, 0, 'WITHSCORES')
  end
  return moved, head[2] and math.max(0, tonumber(head[2]) - now) or -1
end
