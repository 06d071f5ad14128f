#!lua
-- Remembers for what an idempotency key is used, unless it is used already.
--
-- KEYS  1 keys (hash: key -> "ms when it is forgotten, what it is used for")
-- ARGV  1 key  2 what for  3 for how many ms it is remembered  4 most keys to remember
-- Result  what the key is used for
--
-- Each new key pays for the old ones: of a sample those go that are over, and where there are as many as are remembered, the oldest of it.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local there = redis.call('HGET', KEYS[1], ARGV[1])
if there then
  local over, what = there:match('^(%d+) (.*)$')
  if tonumber(over) > now then return what end
end
local sample = redis.call('HRANDFIELD', KEYS[1], 8, 'WITHVALUES')
local gone, oldest, first = {}, nil, nil
for i = 1, #sample, 2 do
  local over = tonumber(sample[i + 1]:match('^%d+'))
  if over <= now then gone[#gone + 1] = sample[i] end
  if not first or over < first then oldest, first = sample[i], over end
end
if #gone == 0 and oldest and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then gone = { oldest } end
if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
redis.call('HSET', KEYS[1], ARGV[1], now + tonumber(ARGV[3]) .. ' ' .. ARGV[2])
return ARGV[2]
