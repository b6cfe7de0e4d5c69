"""How long a provider may send nothing at all before it counts as silent: docs/timeouts.md."""

import re

from proxy.attempts import fallbacks
from proxy.calls.call import Call
from routing.table import TargetEntry

QUICK, PATIENT = 60.0, 300.0  # seconds

_THINKS = re.compile(
    r"think|reason|(^|[/.:_-])(o[134]|gpt-5|r1|qwq|magistral|grok-4|glm-[45]|kimi-k2|gemini-(2\.5|3)|minimax-m)"
    r"|claude-(opus|sonnet|haiku)-[4-9]|deepseek-v3\.[1-9]",
    re.IGNORECASE,
)
"""Models that are known to think before their first word, without a comment on the way."""


def bound_of(call: Call, target: TargetEntry, upstream_model: str) -> float:
    """Seconds, of a stream whose provider has no read time-out of its own.

    Patience costs nobody anything where there is no other target to go to.
    """
    if target.provider.self_hosted or _THINKS.search(upstream_model):
        return PATIENT
    others = target is not call.order[-1] or call.last_resorts or fallbacks.any_left(call, fallbacks.ERROR)
    return QUICK if others else PATIENT
