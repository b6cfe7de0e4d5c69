-- Applies one batch of a worker's records, once: a batch that is sent again after a lost reply changes nothing.
-- KEYS[1]: the worker's last batch. ARGV: its number, lease ms, then records:
--   S call owners, then for each: base, parallel 0/1, bucket, token difference, period, cost, end ms
--   H call owners, then for each: base, parallel 0/1, -, -, period, amount, end ms
--   F as S: what this Redis was told before it lost its memory
--   C base period cost: what was spent while Redis was away, so long ago that the log has it
--   W base age ms requests tokens: what was let through while Redis was away
-- A blank bucket or period: the owner has no such limit.
if tonumber(call('GET', KEYS[1]) or '0') >= tonumber(ARGV[1]) then return 0 end
call('SET', KEYS[1], ARGV[1], 'PX', 86400000)
local now, lease, at = clock(), tonumber(ARGV[2]), 3

local function settle(id, base, parallel, bucket, difference, period, cost, ends)
  if parallel == '1' then call('ZREM', base .. ':p', id) end
  if bucket ~= '' then correct(base .. ':t', bucket, difference) end
  if period == '' then return end
  local budget = base .. ':b:' .. period
  let_go(budget, id)
  if call('HEXISTS', budget, 's') == 1 then
    call('HINCRBY', budget, 's', cost)
  elseif cost ~= '0' then
    call('HSET', budget .. ':p', id, cost)
    keep_until(budget .. ':p', ends)
  end
end

local function remember(id, base, period, cost, ends)
  if period == '' or cost == '0' then return end
  local budget = base .. ':b:' .. period
  if call('HEXISTS', budget, 's') == 0 then
    call('HSET', budget .. ':p', id, cost)
    keep_until(budget .. ':p', ends)
  end
end

local function renew(id, base, parallel, period, amount, ends)
  if parallel == '1' then
    call('ZADD', base .. ':p', now + lease, id)
    call('PEXPIRE', base .. ':p', 2 * lease)
  end
  if period ~= '' then hold(base .. ':b:' .. period, id, amount, now + lease, ends) end
end

while at <= #ARGV do
  local kind = ARGV[at]
  if kind == 'S' or kind == 'H' or kind == 'F' then
    local id, owners = ARGV[at + 1], tonumber(ARGV[at + 2])
    at = at + 3
    for _ = 1, owners do
      if kind == 'S' then
        settle(id, ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5], ARGV[at + 6])
      elseif kind == 'F' then
        remember(id, ARGV[at], ARGV[at + 4], ARGV[at + 5], ARGV[at + 6])
      else
        renew(id, ARGV[at], ARGV[at + 1], ARGV[at + 4], ARGV[at + 5], ARGV[at + 6])
      end
      at = at + 7
    end
  elseif kind == 'C' then
    local budget = ARGV[at + 1] .. ':b:' .. ARGV[at + 2]
    if call('HEXISTS', budget, 's') == 1 then call('HINCRBY', budget, 's', ARGV[at + 3]) end
    at = at + 4
  else
    local base, bucket = ARGV[at + 1], whole(math.floor((now - tonumber(ARGV[at + 2])) / BUCKET))
    if ARGV[at + 3] ~= '0' then add(base .. ':r', base .. ':rl', bucket, ARGV[at + 3]) end
    if ARGV[at + 4] ~= '0' then add(base .. ':t', base .. ':tl', bucket, ARGV[at + 4]) end
    at = at + 5
  end
end
return 1
