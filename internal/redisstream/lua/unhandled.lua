-- count counts n events of a type that the group has left unhandled, in its hash :meta. How many
-- types there are stands beside them: HLEN would count other fields too. Types beyond most count
-- under *.
local function count(meta, group, type, n, most)
  local field, types = 'unhandled:' .. group .. ':', 'types:' .. group
  if redis.call('HEXISTS', meta, field .. type) == 0 then
    if tonumber(redis.call('HGET', meta, types) or 0) >= most then
      type = '*'
    else
      redis.call('HINCRBY', meta, types, 1)
    end
  end
  redis.call('HINCRBY', meta, field .. type, n)
end
