-- One more failed log-in of KEYS[1]: how many there are, and for how many milliseconds they count.
local total = redis.call('INCR', KEYS[1])
if total == 1 then
    redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return { total, redis.call('PTTL', KEYS[1]) }
