-- One symbol's state, if what is here is what the writer believes to be here.
-- KEYS: the hash, the list of ticks.
-- ARGV: the seq and bars_seq believed, how many ticks are kept, the number of fields, field and value
-- of each, ticks.
-- Answers nothing, or else the seq and bars_seq found, with nothing changed.
local found = redis.call('HMGET', KEYS[1], 'seq', 'bars_seq')
local seq, bars_seq = found[1] or '', found[2] or ''
if seq ~= ARGV[1] or bars_seq ~= ARGV[2] then
  return {seq, bars_seq}
end
local set, gone = {}, {}
local first_tick = 5 + 2 * tonumber(ARGV[4])
for at = 5, first_tick - 1, 2 do
  if ARGV[at + 1] == '' then
    gone[#gone + 1] = ARGV[at]
  else
    set[#set + 1] = ARGV[at]
    set[#set + 1] = ARGV[at + 1]
  end
end
redis.call('HSET', KEYS[1], unpack(set))
if #gone > 0 then
  redis.call('HDEL', KEYS[1], unpack(gone))
end
if seq == '' then
  redis.call('DEL', KEYS[2])
end
if #ARGV >= first_tick then
  redis.call('RPUSH', KEYS[2], unpack(ARGV, first_tick))
  redis.call('LTRIM', KEYS[2], -tonumber(ARGV[3]), -1)
end
return false
