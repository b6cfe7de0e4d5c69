-- Applies one batch of a worker's records, once: a batch that is sent again after a lost reply changes nothing.
-- KEYS[1]: the worker's last batch. ARGV: its number, lease ms, a MessagePack array of records:
--   S call owners cost bucket own-bucket difference: it has ended; its tokens were counted in `bucket`, or in
--     `own-bucket` by the owners of its candidate, and are now more by `difference`
--   H call owners amount: it goes on, and holds the amount of each budget
--   F as S: what was reported to this Redis before it lost its memory
--   C base period cost: what was spent while Redis was away, so long ago that the log has it
--   W base age-ms requests tokens: what was let through while Redis was away
-- `owners` is JSON, the same text for many records: of each its base, parallel (true), tokens
-- (1: counted in `bucket`, 2: in `own-bucket`), period and ends; absent: it has no such limit.
if tonumber(call('GET', KEYS[1]) or '0') >= tonumber(ARGV[1]) then return 0 end
call('SET', KEYS[1], ARGV[1], 'PX', 86400000)
local now, lease = clock(), tonumber(ARGV[2])

local known = {}
local function owners_of(text)
  local owners = known[text]
  if not owners then
    owners = cjson.decode(text)
    for _, owner in ipairs(owners) do
      owner.calls, owner.window = owner.base .. ':p', owner.base .. ':t'
      owner.budget = owner.period and owner.base .. ':b:' .. owner.period
    end
    known[text] = owners
  end
  return owners
end

-- What calls that have ended change, until end_calls() writes it: a command for many of them.
local closed, corrections, budgets, ends_of = {}, {}, {}, {}

local function the(group, name)
  if not group[name] then group[name] = {} end
  return group[name]
end

local function settle(id, owner, cost, bucket, difference)
  if owner.parallel then table.insert(the(closed, owner.calls), id) end
  if owner.tokens and difference ~= 0 then
    local buckets = the(corrections, owner.window)
    buckets[bucket] = (buckets[bucket] or 0) + difference
  end
  if owner.budget then
    local costs = the(budgets, owner.budget)
    costs[id], ends_of[owner.budget] = (costs[id] or 0) + cost, owner.ends
  end
end

local function keep_pending(budget, id, cost, ends)
  call('HSET', budget .. ':p', id, whole(cost))
  keep_until(budget .. ':p', ends)
end

local function end_calls_of(budget, costs)
  local ids, sum = {}, 0
  for id, cost in pairs(costs) do ids[#ids + 1], sum = id, sum + cost end
  let_go(budget, ids)
  reclaim(budget, now)
  if call('HEXISTS', budget, 's') == 1 then
    if sum ~= 0 then call('HINCRBY', budget, 's', whole(sum)) end
  else
    for id, cost in pairs(costs) do
      if cost ~= 0 then keep_pending(budget, id, cost, ends_of[budget]) end
    end
  end
end

local function end_calls()
  for calls, ids in pairs(closed) do call('ZREM', calls, unpack(ids)) end
  for window, buckets in pairs(corrections) do
    for bucket, difference in pairs(buckets) do correct(window, whole(bucket), difference) end
  end
  for budget, costs in pairs(budgets) do end_calls_of(budget, costs) end
  closed, corrections, budgets = {}, {}, {}
end

local function remember(id, owner, cost)
  if owner.budget and cost ~= 0 and call('HEXISTS', owner.budget, 's') == 0 then
    keep_pending(owner.budget, id, cost, owner.ends)
  end
end

local function renew(id, owner, amount)
  if owner.parallel then
    call('ZADD', owner.calls, now + lease, id)
    call('PEXPIRE', owner.calls, 2 * lease)
  end
  if owner.budget then
    let_go(owner.budget, {id})
    call('HSET', owner.budget, 'h:' .. id, whole(amount))
    call('HINCRBY', owner.budget, 'r', whole(amount))
    call('ZADD', owner.budget .. ':x', now + lease, id)
    keep_until(owner.budget, owner.ends)
    keep_until(owner.budget .. ':x', owner.ends)
  end
end

local function let_through(base, age, requests, spent_tokens)
  local bucket = whole(math.floor((now - age) / BUCKET))
  if requests ~= 0 then add(read_window(base .. ':r', bucket, now), bucket, requests) end
  if spent_tokens ~= 0 then add(read_window(base .. ':t', bucket, now), bucket, spent_tokens) end
end

for _, record in ipairs(cmsgpack.unpack(ARGV[3])) do
  local kind = record[1]
  if kind == 'S' then
    local id, cost, difference = record[2], record[4], record[7]
    for _, owner in ipairs(owners_of(record[3])) do
      settle(id, owner, cost, owner.tokens == 2 and record[6] or record[5], difference)
    end
  else
    end_calls() -- in the order in which they came
    if kind == 'H' then
      for _, owner in ipairs(owners_of(record[3])) do renew(record[2], owner, record[4]) end
    elseif kind == 'F' then
      for _, owner in ipairs(owners_of(record[3])) do remember(record[2], owner, record[4]) end
    elseif kind == 'C' then
      local budget = record[2] .. ':b:' .. record[3]
      if call('HEXISTS', budget, 's') == 1 then call('HINCRBY', budget, 's', whole(record[4])) end
    else
      let_through(record[2], record[3], record[4], record[5])
    end
  end
end
end_calls()
return 1
