-- What comes last is tried first, where it changes nothing: a user without the right to HSET would be refused each time, and would have stored
-- each time. A new writer has the mark of one that has appended nothing.
redis.call('HSET', KEYS[2], ARGV[1], mark or '0 0-0')
