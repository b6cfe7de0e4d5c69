-- What the scripts share. All times are the Redis server's, in milliseconds: no worker's clock counts.
-- Keys of one owner start with its base, e.g. {switchstand}:key:7
--   :r :t      hash, requests or tokens of the last minute by bucket; t, their sum; o, the oldest bucket
--              (absent: not known, after a worker that knows no o)
--   :rl :tl    list, the buckets in use, oldest first
--   :p         sorted set, open calls by the end of their lease
--   :b:PERIOD  hash, s spent (absent: not known yet), r reserved, h:CALL held by a call
--   :b:PERIOD:x  sorted set, calls that hold of the budget by the end of their lease
--   :b:PERIOD:p  hash, what calls cost that ended before s was known
local MINUTE, BUCKET, KEEP = 60000, 250, 120000
local MOST_RECLAIMED = 1000
local MANY = 64 -- buckets
local call = redis.call

local function clock()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Lua's own text of a number loses digits above 10^14, and Redis 7.2 writes 100000000 as 1e+8.
local function whole(number)
  if number < 1e9 and number > -1e9 then return string.format('%d', number) end -- quicker, and fits any build
  return string.format('%.0f', number)
end

local function keep_until(key, ends)
  if ends then call('PEXPIREAT', key, ends) end
end

-- From then on Redis looks fields up: a short hash of short values is searched from its start for each.
-- (A value above hash-max-listpack-value, 64 bytes, makes it so; it is overwritten by the same command.)
local function set_indexed(key, field, value)
  call('HSET', key, field, string.rep(' ', 65), field, value)
end

-- A bucket counts until the youngest of what is in it is a minute old, so no minute ever has more than the limit.
local function leaves_at(bucket)
  return (tonumber(bucket) + 1) * BUCKET + MINUTE
end

local function drop_old(window, now)
  local name, list = window.name, window.name .. 'l'
  local head = call('LINDEX', list, 0)
  while head and now >= leaves_at(head) do
    call('LPOP', list)
    window.sum = window.sum - (tonumber(call('HGET', name, head)) or 0)
    call('HDEL', name, head)
    head = call('LINDEX', list, 0)
  end
  window.oldest = head
  if head then
    call('HSET', name, 't', whole(window.sum), 'o', head)
  else
    call('DEL', name)
    window.sum, window.bucket = 0, nil
  end
end

-- The last minute's sum, and what its `bucket` has (nil: it isn't there).
local function read_window(name, bucket, now)
  local found = call('HMGET', name, 't', 'o', bucket)
  local window = {name = name, sum = tonumber(found[1]) or 0, oldest = found[2], bucket = tonumber(found[3])}
  if found[1] and (not window.oldest or now >= leaves_at(window.oldest)) then drop_old(window, now) end
  return window
end

-- A past bucket goes to its place, so that the oldest stays first. Replies how many there are.
local function list_bucket(window, bucket)
  local list, index = window.name .. 'l', 0
  local last = call('LINDEX', list, -1)
  if not last or tonumber(last) < tonumber(bucket) then return call('RPUSH', list, bucket) end
  while tonumber(call('LINDEX', list, index)) < tonumber(bucket) do index = index + 1 end
  window.oldest = index > 0 and window.oldest
  return call('LINSERT', list, 'BEFORE', call('LINDEX', list, index), bucket)
end

-- To the bucket that the window was read with.
local function add(window, bucket, amount)
  local name, is_new = window.name, not window.bucket
  window.sum, window.bucket = window.sum + amount, (window.bucket or 0) + amount
  if not is_new then
    call('HSET', name, 't', whole(window.sum), bucket, whole(window.bucket))
    return
  end
  if list_bucket(window, bucket) == MANY then set_indexed(name, 't', whole(window.sum)) end
  window.oldest = window.oldest or call('LINDEX', name .. 'l', 0)
  call('HSET', name, 't', whole(window.sum), bucket, whole(window.bucket), 'o', window.oldest)
  call('PEXPIRE', name, KEEP) -- what is in a bucket counts for little longer than a minute
  call('PEXPIRE', name .. 'l', KEEP)
end

local function correct(window, bucket, difference)
  if difference ~= 0 and call('HEXISTS', window, bucket) == 1 then
    call('HINCRBY', window, bucket, whole(difference))
    call('HINCRBY', window, 't', whole(difference))
  end
end

-- `ids`: each once, MOST_RECLAIMED at most.
local function let_go(budget, ids)
  local fields, sum = {}, 0
  for place, id in ipairs(ids) do fields[place] = 'h:' .. id end
  for _, held in ipairs(call('HMGET', budget, unpack(fields))) do sum = sum + (tonumber(held) or 0) end
  if sum ~= 0 then call('HINCRBY', budget, 'r', whole(-sum)) end
  call('HDEL', budget, unpack(fields))
  call('ZREM', budget .. ':x', unpack(ids))
end

-- Reservations of workers that died come back. Replies whether there were any.
local function reclaim(budget, now)
  local dead = call('ZRANGEBYSCORE', budget .. ':x', 0, now, 'LIMIT', 0, MOST_RECLAIMED)
  if #dead > 0 then let_go(budget, dead) end
  return #dead > 0
end
