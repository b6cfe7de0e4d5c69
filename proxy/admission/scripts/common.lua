-- What the scripts share. All times are the Redis server's, in milliseconds: no worker's clock counts.
-- Keys of one owner start with its base, e.g. {switchstand}:key:7
--   :r :t      hash, requests or tokens of the last minute by bucket, and t, their sum
--   :rl :tl    list, the buckets in use, oldest first
--   :p         sorted set, open calls by the end of their lease
--   :b:PERIOD  hash, s spent (absent: not known yet), r reserved, h:CALL held by a call
--   :b:PERIOD:x  sorted set, calls that hold of the budget by the end of their lease
--   :b:PERIOD:p  hash, what calls cost that ended before s was known
local MINUTE, BUCKET, KEEP = 60000, 250, 120000
local call = redis.call

local function clock()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function whole(number)
  return string.format('%.0f', number) -- Lua's own text of a number loses digits above 10^14
end

local function minus(text)
  return text == '0' and text or '-' .. text -- Redis takes no -0
end

local sums = {} -- of windows, as this call of the script has left them

-- The sum of a window, after what is older than a minute is dropped. A bucket counts until the youngest of
-- what is in it is a minute old, so no minute ever has more than the limit.
local function total(window, list, now)
  local sum = tonumber(call('HGET', window, 't') or '0')
  local head = call('LINDEX', list, 0)
  local dropped = false
  while head and now >= (tonumber(head) + 1) * BUCKET + MINUTE do
    call('LPOP', list)
    sum = sum - tonumber(call('HGET', window, head) or '0')
    call('HDEL', window, head)
    head, dropped = call('LINDEX', list, 0), true
  end
  if dropped then call('HSET', window, 't', whole(sum)) end
  sums[window] = sum
  return sum
end

-- Milliseconds until `excess` of a window has become too old to count; a minute if that is never enough.
local function wait_for(window, list, excess, now)
  local index = 0
  while true do
    local bucket = call('LINDEX', list, index)
    if not bucket then return MINUTE end
    excess = excess - tonumber(call('HGET', window, bucket) or '0')
    if excess <= 0 then return (tonumber(bucket) + 1) * BUCKET + MINUTE - now end
    index = index + 1
  end
end

local function add(window, list, bucket, amount)
  local is_new = call('HEXISTS', window, bucket) == 0
  if is_new then
    local last = call('LINDEX', list, -1)
    if not last or tonumber(last) < tonumber(bucket) then
      call('RPUSH', list, bucket)
    else -- a past bucket: in its place, so that the oldest stays first
      local index = 0
      while tonumber(call('LINDEX', list, index)) < tonumber(bucket) do index = index + 1 end
      call('LINSERT', list, 'BEFORE', call('LINDEX', list, index), bucket)
    end
  end
  call('HINCRBY', window, bucket, amount)
  sums[window] = call('HINCRBY', window, 't', amount)
  if is_new then -- what is in a bucket counts for little longer than a minute
    call('PEXPIRE', window, KEEP)
    call('PEXPIRE', list, KEEP)
  end
end

local function correct(window, bucket, difference)
  if call('HEXISTS', window, bucket) == 1 then
    call('HINCRBY', window, bucket, difference)
    sums[window] = call('HINCRBY', window, 't', difference)
  end
end

-- Milliseconds until nothing of a window counts any more.
local function clears_in(list, now)
  local last = call('LINDEX', list, -1)
  return last and math.max((tonumber(last) + 1) * BUCKET + MINUTE - now, 0) or 0
end

local function let_go(budget, id)
  local held = call('HGET', budget, 'h:' .. id)
  if held then
    call('HINCRBY', budget, 'r', minus(held))
    call('HDEL', budget, 'h:' .. id)
    call('ZREM', budget .. ':x', id)
  end
end

-- Reservations of workers that died come back.
local function reclaim(budget, now)
  for _, id in ipairs(call('ZRANGEBYSCORE', budget .. ':x', 0, now, 'LIMIT', 0, 100)) do
    let_go(budget, id)
    call('ZREM', budget .. ':x', id)
  end
end

local function keep_until(key, ends)
  if ends ~= '' then call('PEXPIREAT', key, ends) end
end

local function hold(budget, id, amount, lease_end, ends)
  let_go(budget, id)
  call('HSET', budget, 'h:' .. id, amount)
  call('HINCRBY', budget, 'r', amount)
  call('ZADD', budget .. ':x', lease_end, id)
  keep_until(budget, ends)
  keep_until(budget .. ':x', ends)
end
