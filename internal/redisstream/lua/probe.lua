#!lua
-- Finds out whether an append would be refused, and stores nothing: as an append (append.lua) it has no flags, so that the
-- server refuses it as a whole where it takes no writes or has no memory left, and it uses the commands of one. Only HSET
-- can't be tried without a trace.
--
-- KEYS  1 a key that does not exist
-- Result  nothing. Error NOPERM: the user lacks the right to a command, which it names; the server itself does not
local stream = KEYS[1]
for _, command in ipairs({
  { 'XADD', stream, 'NOMKSTREAM', '*', 'probe', '' },
  { 'XLEN', stream },
  { 'HGET', stream, '' },
  { 'HDEL', stream, '' },
  { 'HRANDFIELD', stream, 1 },
  { 'TIME' },
}) do
  local answer = redis.pcall(unpack(command))
  if type(answer) == 'table' and answer.err then
    if answer.err:find("can't run this command", 1, true) or answer.err:find('ACL failure in script', 1, true) then -- until 7.0, and from 7.2
      return redis.error_reply('NOPERM this user has no permissions to run the ' .. command[1] .. ' command')
    end
    return answer
  end
end
