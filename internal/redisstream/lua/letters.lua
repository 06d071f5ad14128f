#!lua flags=no-writes,allow-oom
-- Reads some dead letters of a group, those at the given IDs, up to a number of bytes: one may have a MiB.
--
-- KEYS  1 dead
-- ARGV  1 most bytes of their fields, as far as more than one is read  then IDs
-- Result  how many of the IDs were looked at, and the letters that are there, as XRANGE has them
local letters, looked, bytes = {}, 0, tonumber(ARGV[1])
for i = 2, #ARGV do
  local letter = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
  for _, field in ipairs(letter and letter[2] or {}) do bytes = bytes - #field end
  if bytes < 0 and #letters > 0 then break end
  letters[#letters + 1] = letter
  looked = looked + 1
end
return { looked, letters }
