-- Functions on entry IDs, which other scripts include. Both parts of an ID go up to 2^64-1, and
-- Lua's numbers are exact up to 2^53 only: so the parts stay the decimal text that the server
-- writes, which has no leading zeros.

-- greater reports whether the number a is greater than the number b.
local function greater(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end

-- behind reports whether ID a stands behind ID b.
local function behind(a, b)
  local ams, aseq = a:match('^(%d+)-(%d+)$')
  local bms, bseq = b:match('^(%d+)-(%d+)$')
  if ams ~= bms then return greater(ams, bms) end
  return greater(aseq, bseq)
end

-- lessOne returns the number before n, which is not 0.
local function lessOne(n)
  local head, last, zeros = n:match('^(%d*)([1-9])(0*)$')
  local less = head .. (last - 1) .. string.rep('9', #zeros)
  return #less > 1 and less:gsub('^0', '') or less
end

-- before returns the largest ID before the given one, where an entry may stand or not; that of 0-0
-- is 0-0.
local function before(id)
  local ms, seq = id:match('^(%d+)-(%d+)$')
  if seq ~= '0' then return ms .. '-' .. lessOne(seq) end
  if ms ~= '0' then return lessOne(ms) .. '-18446744073709551615' end
  return id
end
