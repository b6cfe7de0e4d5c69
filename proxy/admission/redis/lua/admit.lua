-- Counts one request against all shared owners and the first candidate that has room, or against nothing.
-- KEYS: the bases of the shared owners, of the candidate to let go (move only), then of each candidate's owners.
-- ARGV[1], MessagePack of what is the same for many calls: lease (ms), shared (owners), old (owners to let go),
--       candidates (of each its owners), limits (of each key: rpm, tpm, parallel, budget, period, ends).
-- ARGV[2], MessagePack: call, tokens, bucket to correct there (-1: a new call), for each candidate its cost (-1: unknown).
-- Replies: {1, candidate, bucket, rate limits x4, skipped x4 ...}, {0, 0, 0, rate limits x4, hits x4 ...}
--          or {-1, key ...} for budgets whose spending is not known.
-- A hit is: key, kind (1 rpm, 2 tpm, 3 parallel, 4 budget, 5 price unknown), wait ms, nano-USD left.
local asked = cmsgpack.unpack(ARGV[1])
local limits, candidates, shared, lease = asked.limits, asked.candidates, asked.shared, asked.lease
local first_new = shared + asked.old + 1
local of_call = cmsgpack.unpack(ARGV[2])
local id, tokens, old_bucket = of_call[1], of_call[2], of_call[3]
local moving = old_bucket >= 0
local now = clock()
local bucket = whole(math.floor(now / BUCKET))
local windows, budgets = {}, {} -- by name: as they were read, and as this script leaves them

local function window_of(key, kind)
  local name = KEYS[key] .. kind
  local window = windows[name]
  if not window then
    window = read_window(name, bucket, now)
    windows[name] = window
  end
  return window
end

local function budget_of(key)
  local name = KEYS[key] .. ':b:' .. limits[key].period
  local budget = budgets[name]
  if not budget then
    local found = call('HMGET', name, 's', 'r', 'h:' .. id)
    budget = {
      name = name, spent = tonumber(found[1]), reserved = tonumber(found[2]) or 0, held = tonumber(found[3]) or 0
    }
    budgets[name] = budget
  end
  return budget
end

local unseeded = {-1}
for key = 1, #KEYS do
  if limits[key].budget and (key <= shared or key >= first_new) and not budget_of(key).spent then
    unseeded[#unseeded + 1] = key
  end
end
if #unseeded > 1 then return unseeded end

-- Milliseconds until `excess` of a window has become too old to count; a minute if that is never enough.
local function wait_for(window, excess)
  local index = 0
  while true do
    local oldest = call('LINDEX', window.name .. 'l', index)
    if not oldest then return MINUTE end
    excess = excess - (tonumber(call('HGET', window.name, oldest)) or 0)
    if excess <= 0 then return leaves_at(oldest) - now end
    index = index + 1
  end
end

local function full_rates(key)
  local rpm, tpm, parallel = limits[key].rpm, limits[key].tpm, limits[key].parallel
  if parallel then
    local calls = KEYS[key] .. ':p'
    if call('ZCARD', calls) >= parallel then
      call('ZREMRANGEBYSCORE', calls, 0, now)
      if call('ZCARD', calls) >= parallel then return {key, 3, 0, 0} end
    end
  end
  if rpm then
    local window = window_of(key, ':r')
    local excess = window.sum + 1 - rpm
    if excess > 0 then return {key, 1, wait_for(window, excess), 0} end
  end
  if tpm then
    local window = window_of(key, ':t')
    local excess = window.sum + tokens - tpm
    if excess > 0 then return {key, 2, wait_for(window, excess), 0} end
  end
end

local function left_of(key)
  local budget = budget_of(key)
  return limits[key].budget - budget.spent - budget.reserved + budget.held
end

local function full_budget(key, cost)
  if not limits[key].budget then return end
  if cost < 0 then return {key, 5, 0, 0} end
  if cost == 0 or cost <= left_of(key) then return end
  local name = budget_of(key).name
  if reclaim(name, now) then budgets[name] = nil end
  if cost > left_of(key) then return {key, 4, 0, left_of(key)} end
end

local function hold_budget(key, cost)
  local budget = budget_of(key)
  local before = budget.reserved
  budget.reserved, budget.held = before - budget.held + cost, cost
  call('HSET', budget.name, 'h:' .. id, whole(cost), 'r', whole(budget.reserved))
  call('ZADD', budget.name .. ':x', now + lease, id)
  if before == 0 then keep_until(budget.name .. ':x', limits[key].ends) end -- else others hold: it is there
end

local function hold_rates(key)
  local base, limit = KEYS[key], limits[key]
  if limit.rpm then add(window_of(key, ':r'), bucket, 1) end
  if limit.tpm then add(window_of(key, ':t'), bucket, tokens) end
  if limit.parallel then
    call('ZADD', base .. ':p', now + lease, id)
    call('PEXPIRE', base .. ':p', 2 * lease)
  end
end

-- Milliseconds until nothing of a window counts any more.
local function clears_in(window)
  local last = window.bucket and bucket or call('LINDEX', window.name .. 'l', -1)
  return last and math.max(leaves_at(last) - now, 0) or 0
end

-- Of the first shared owner that has a rate.
local function add_rate_limits(answer)
  for key = 1, shared do
    local rpm, tpm = limits[key].rpm, limits[key].tpm
    if rpm then
      local window = window_of(key, ':r')
      answer[4], answer[5] = math.max(rpm - window.sum, 0), clears_in(window)
    end
    if tpm then
      local window = window_of(key, ':t')
      answer[6], answer[7] = math.max(tpm - window.sum, 0), clears_in(window)
    end
    if rpm or tpm then return end
  end
end

local function reply(code, candidate, hits)
  local answer = {code, candidate, tonumber(bucket), -1, 0, -1, 0}
  add_rate_limits(answer)
  for _, hit in ipairs(hits) do
    for _, value in ipairs(hit) do answer[#answer + 1] = value end
  end
  return answer
end

if moving then
  for key = shared + 1, first_new - 1 do
    call('ZREM', KEYS[key] .. ':p', id)
    if limits[key].budget then let_go(KEYS[key] .. ':b:' .. limits[key].period, {id}) end
    if limits[key].tpm then correct(KEYS[key] .. ':t', whole(old_bucket), -tokens) end
  end
  budgets = {} -- the same may be among the candidates
else
  for key = 1, shared do
    local hit = full_rates(key)
    if hit then return reply(0, 0, {hit}) end
  end
end

local hits, first = {}, first_new
for candidate, owners in ipairs(candidates) do
  local cost, last, hit = of_call[3 + candidate], first + owners - 1, nil
  for key = 1, shared do hit = hit or full_budget(key, cost) end
  for key = first, last do hit = hit or full_rates(key) or full_budget(key, cost) end
  if not hit then
    for key = 1, last do
      if key <= shared or key >= first then
        if limits[key].budget then hold_budget(key, cost) end
        if key > shared or not moving then hold_rates(key) end
      end
    end
    return reply(1, candidate, hits)
  end
  hits[#hits + 1] = hit
  first = last + 1
end
return reply(0, 0, hits)
