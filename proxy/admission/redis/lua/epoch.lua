-- Whether this Redis still remembers: KEYS[1] changes when its memory was lost.
-- ARGV: a random word. Replies: {the word of this memory, its age in ms}.
call('SET', KEYS[1], ARGV[1] .. ':' .. whole(clock()), 'NX')
local word = call('GET', KEYS[1])
return {word, clock() - tonumber(string.match(word, ':(%d+)$'))}
