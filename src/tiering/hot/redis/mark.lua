-- How far a partition has come, if this writer was the last to say so.
-- KEYS: the partition's mark.
-- ARGV: the writer's last token, its next one, the offset, the time, the record before the offset (empty
-- where it is not known).
-- Answers nothing, or else the token found, with nothing changed.
local found = redis.call('HGET', KEYS[1], 'writer') or ''
if found ~= ARGV[1] then
  return found
end
local offset = tonumber(ARGV[3])
local next_offset = tonumber(redis.call('HGET', KEYS[1], 'next_offset') or '0')
if offset > next_offset then
  redis.call('HSET', KEYS[1], 'next_offset', ARGV[3])
end
if offset >= next_offset and ARGV[5] ~= '' then
  redis.call('HSET', KEYS[1], 'seam', ARGV[5])
end
redis.call('HSET', KEYS[1], 'writer', ARGV[2], 'updated', ARGV[4])
return false
