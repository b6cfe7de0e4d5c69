"""Limits counted in Redis, for any number of web processes.

Modules, low to high; each imports only those above it in this list:

    connection   one connection that all calls of the process share; RedisAway, RedisRefused
    scripts      the scripts in lua/, and how a call of one is packed
    owners       an owner of limits in the running period of its budget
    holds        owners that a call holds something of; requests of the last minute
    settlements  records on their way to Redis, in numbered batches
    outage       what was settled while Redis was away, and what it may have forgotten
    calls        how a call asks for admission
    client       keeps a connection, or knows that there is none
    grant        what one call holds until it ends
    admission    RedisAdmission: the store of limits, made of all these

Beside them: `counters` (what budgets have spent, for audits and corrections; never on a request's path) and
`failures` (failed log-ins of all processes).

Who says what to Redis. A call that has any limit runs lua/admit.lua, once and awaited: it counts the
request against all owners and the first candidate that has room, or against nothing. When the call ends
or its lease must be renewed, a record goes to the settlements: nobody waits for it. Records are collected
for 2 ms and run lua/settle.lua in batches of 200, in order, each batch until it is acknowledged. Batches
are numbered, and Redis applies no number twice, so a batch that is sent again after a lost reply changes
nothing. Where Redis doesn't know what a budget has spent, admit.lua says so, one task for all callers
reads it from the log and lua/seed.lua sets it, with the calls that ended meanwhile: each is counted once,
whether the log had it already or not.

While it is away. The connection fails as a whole when an answer is late: all that wait get RedisAway, and
from then on nobody waits. With LIMITS_WITHOUT_REDIS=closed limited calls are refused. With `open` a
MemoryAdmission begins with what this process let through in the last minute; grants hold there and keep
`reported` False. What ends meanwhile goes to SettledInOutage: one record for each call of the last
minute, one sum per budget for what is older, since the log has that. A call of which no answer came may
hold anything: a record that gives back all it may hold goes to the settlements.

When it is back. Before anyone else may use the new connection, RedisAdmission reports what Redis does not
know: requests it let through without it, what was settled, and what its open calls hold. Others do the
same within YOUNG_SECONDS, so a budget's spending is read from the log only after that.

When it has forgotten. lua/epoch.lua keeps a word in Redis that is new when its memory is. Where the word
differs from the one before, this process also reports the requests of the last minute again, and what it
settled in the last 10 s (SettledLately), which the log may not have yet; older spending is read from the
log.

When this process dies. What it held comes back when the lease ends. Its last records may be missing: the
process that recovers its journal lets all budgets be read from the log again (counters.recount_budgets).
"""
