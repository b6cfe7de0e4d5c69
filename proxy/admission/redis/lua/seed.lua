-- Sets what a budget had spent, if nobody has yet.
-- KEYS[1]: base:b:PERIOD. ARGV: end ms, spent according to the log (blank: only ask), whether to insist,
--       then the calls that this sum leaves out.
-- Replies: the calls that ended meanwhile and must be left out of the sum; or nothing, when it is set.
if call('HEXISTS', KEYS[1], 's') == 1 then return {} end
local pending, left_out = call('HGETALL', KEYS[1] .. ':p'), {}
for index = 4, #ARGV do left_out[ARGV[index]] = true end
local sum, ids, missing = tonumber(ARGV[2] ~= '' and ARGV[2] or '0'), {}, ARGV[2] == ''
for index = 1, #pending, 2 do
  ids[#ids + 1] = pending[index]
  sum = sum + tonumber(pending[index + 1])
  missing = missing or not left_out[pending[index]]
end
if missing and ARGV[3] ~= '1' then
  ids[#ids + 1] = '' -- not empty: it is not set yet
  return ids
end
set_indexed(KEYS[1], 's', whole(sum)) -- there may be hundreds of holds
call('DEL', KEYS[1] .. ':p')
if ARGV[1] ~= '' then keep_until(KEYS[1], ARGV[1]) end
return {}
