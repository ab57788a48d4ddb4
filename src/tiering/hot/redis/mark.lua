-- How far a partition has come, if this writer was the last to say so.
-- KEYS: the partition's mark.
-- ARGV: the writer's last token, its next one, the offset, the time.
-- Answers nothing, or else the token found, with nothing changed.
local found = redis.call('HGET', KEYS[1], 'writer') or ''
if found ~= ARGV[1] then
  return found
end
local next_offset = tonumber(redis.call('HGET', KEYS[1], 'next_offset') or '0')
if tonumber(ARGV[3]) > next_offset then
  redis.call('HSET', KEYS[1], 'next_offset', ARGV[3])
end
redis.call('HSET', KEYS[1], 'writer', ARGV[2], 'updated', ARGV[4])
return false
