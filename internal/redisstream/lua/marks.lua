-- Drops marks of writers that are not heard of any more from the hash KEYS[2], which the scripts that append include where they meet a new
-- writer: it pays for the old ones. A sample is looked at, so the hash stays about as large as the number of starts in 30 days. A
-- process that publishes a little and ends (its writers' names begin with ~) is remembered for 10 minutes only: one that runs ten
-- times a second would leave 2.6 GB behind.
local now = tonumber(redis.call('TIME')[1]) * 1000 -- not the stream's clock, which an entry of the future carries away
local sample = redis.call('HRANDFIELD', KEYS[2], 32, 'WITHVALUES')
local gone = {}
for i = 1, #sample, 2 do
  local life = sample[i]:sub(1, 1) == '~' and 600000 or 2592000000
  if tonumber(sample[i + 1]:match(' (%d+)')) < now - life then gone[#gone + 1] = sample[i] end
end
if #gone > 0 then redis.call('HDEL', KEYS[2], unpack(gone)) end
