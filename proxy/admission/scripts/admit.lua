-- Counts one request against all shared owners and the first option that has room, or against nothing.
-- KEYS: the bases of the shared owners, of the option to let go (move only), then of each option's owners.
-- ARGV: lease ms, shared owners, owners to let go, options; for each option its owners; for each key: rpm, tpm,
--       parallel, budget (blank: none), period, end ms; then what differs from call to call:
--       call, tokens, bucket to correct there (blank: a new call), for each option its cost (blank: unknown).
-- Replies: {1, option, bucket, headroom x4, skipped x4 ...}, {0, 0, 0, headroom x4, reasons x4 ...}
--          or {-1, key ...} for budgets whose spending is not known.
-- A reason is: key, kind (1 rpm, 2 tpm, 3 parallel, 4 budget, 5 price unknown), wait ms, nano-USD left.
local lease, shared = tonumber(ARGV[1]), tonumber(ARGV[2])
local old, options = tonumber(ARGV[3]), tonumber(ARGV[4])
local claims_at = 4 + options
local call_at = claims_at + 6 * #KEYS
local id, tokens, old_bucket = ARGV[call_at + 1], tonumber(ARGV[call_at + 2]), ARGV[call_at + 3]
local moving = old_bucket ~= ''
local now = clock()
local bucket = whole(math.floor(now / BUCKET))

local function limit(key, which)
  local value = ARGV[claims_at + 6 * (key - 1) + which]
  return value ~= '' and value or nil
end

local function budget_of(key)
  return limit(key, 4) and KEYS[key] .. ':b:' .. limit(key, 5)
end

local unseeded = {-1}
for key = 1, #KEYS do
  local budget = budget_of(key)
  if budget and (key <= shared or key > shared + old) and call('HEXISTS', budget, 's') == 0 then
    unseeded[#unseeded + 1] = key
  end
end
if #unseeded > 1 then return unseeded end

local function full_rates(key)
  local base, rpm, tpm, parallel = KEYS[key], limit(key, 1), limit(key, 2), limit(key, 3)
  if parallel then
    call('ZREMRANGEBYSCORE', base .. ':p', 0, now)
    if call('ZCARD', base .. ':p') >= tonumber(parallel) then return {key, 3, 0, 0} end
  end
  if rpm then
    local excess = total(base .. ':r', base .. ':rl', now) + 1 - tonumber(rpm)
    if excess > 0 then return {key, 1, wait_for(base .. ':r', base .. ':rl', excess, now), 0} end
  end
  if tpm then
    local excess = total(base .. ':t', base .. ':tl', now) + tokens - tonumber(tpm)
    if excess > 0 then return {key, 2, wait_for(base .. ':t', base .. ':tl', excess, now), 0} end
  end
end

local function full_budget(key, cost)
  local budget = budget_of(key)
  if not budget then return end
  if cost == '' then return {key, 5, 0, 0} end
  reclaim(budget, now)
  local found = call('HMGET', budget, 's', 'r', 'h:' .. id)
  local left = tonumber(limit(key, 4)) - tonumber(found[1]) - tonumber(found[2] or '0') + tonumber(found[3] or '0')
  if tonumber(cost) > 0 and tonumber(cost) > left then return {key, 4, 0, left} end
end

local function take(key, cost, whole_claim)
  local base = KEYS[key]
  if budget_of(key) then hold(budget_of(key), id, cost, now + lease, limit(key, 6) or '') end
  if not whole_claim then return end
  if limit(key, 1) then add(base .. ':r', base .. ':rl', bucket, 1) end
  if limit(key, 2) then add(base .. ':t', base .. ':tl', bucket, tokens) end
  if limit(key, 3) then
    call('ZADD', base .. ':p', now + lease, id)
    call('PEXPIRE', base .. ':p', 2 * lease)
  end
end

local function headroom()
  for key = 1, shared do
    local base, rpm, tpm = KEYS[key], limit(key, 1), limit(key, 2)
    if rpm or tpm then
      local left = {-1, 0, -1, 0}
      if rpm then
        left[1] = math.max(tonumber(rpm) - (sums[base .. ':r'] or total(base .. ':r', base .. ':rl', now)), 0)
        left[2] = clears_in(base .. ':rl', now)
      end
      if tpm then
        left[3] = math.max(tonumber(tpm) - (sums[base .. ':t'] or total(base .. ':t', base .. ':tl', now)), 0)
        left[4] = clears_in(base .. ':tl', now)
      end
      return left
    end
  end
  return {-1, 0, -1, 0}
end

local function reply(code, option, reasons)
  local answer = {code, option, tonumber(bucket)}
  for _, value in ipairs(headroom()) do answer[#answer + 1] = value end
  for _, reason in ipairs(reasons) do
    for _, value in ipairs(reason) do answer[#answer + 1] = value end
  end
  return answer
end

if moving then
  for key = shared + 1, shared + old do
    call('ZREM', KEYS[key] .. ':p', id)
    if budget_of(key) then let_go(budget_of(key), id) end
    if limit(key, 2) then correct(KEYS[key] .. ':t', old_bucket, minus(ARGV[call_at + 2])) end
  end
else
  for key = 1, shared do
    local reason = full_rates(key)
    if reason then return reply(0, 0, {reason}) end
  end
end

local reasons, first = {}, shared + old + 1
for option = 1, options do
  local cost, owners = ARGV[call_at + 3 + option], tonumber(ARGV[4 + option])
  local reason
  for key = 1, shared do reason = reason or full_budget(key, cost) end
  for key = first, first + owners - 1 do reason = reason or full_rates(key) or full_budget(key, cost) end
  if not reason then
    for key = 1, shared do take(key, cost, not moving) end
    for key = first, first + owners - 1 do take(key, cost, true) end
    return reply(1, option, reasons)
  end
  reasons[#reasons + 1] = reason
  first = first + owners
end
return reply(0, 0, reasons)
