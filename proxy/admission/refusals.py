"""How a limit that was hit is put to the caller."""

from collections.abc import Sequence
from decimal import Decimal

from proxy.admission.base import NEVER, Demand, LimitHit, RateLimitStates
from proxy.errors import QUOTA, PriceUnknown, RateLimited
from routing.table import Budget

OWNERS = {
    "key": "API key",
    "team": "Team",
    "route": "Route",
    "target": "Target",
    "provider": "Provider",
}
PERIODS = {"day": "a day", "week": "a week", "month": "a month", "total": "in total"}


def refused(
    hits: Sequence[LimitHit], demand: Demand, rate_limits: RateLimitStates = (None, None)
) -> RateLimited:
    """The error for a call that nothing has room for: of the limit that frees first."""
    first = min(hits, key=lambda hit: hit.wait)
    kind = PriceUnknown if first.limit == "price" else RateLimited
    error = kind(
        message(first, demand),
        code=QUOTA if first.limit == "budget" else "",
        retry_after=None if first.wait == NEVER else max(first.wait, 0.001),
    )
    error.rate_limits = rate_limits
    return error


def message(hit: LimitHit, demand: Demand) -> str:
    limits, budget = hit.owner.limits, hit.owner.budget
    name = f"{OWNERS[hit.owner.kind]} {hit.owner.name}"
    if hit.limit == "budget":
        assert budget is not None
        return f"{name} {_budget(hit, budget)}"
    if hit.limit == "price":
        return (
            f"{name} has a budget, and the price of what would serve this request is unknown: "
            "an admin must set the target's prices."
        )
    texts = {
        "parallel": f"{limits.parallel} requests at the same time",
        "rpm": f"{limits.rpm} requests per minute",
        "tpm": f"{limits.tpm} tokens per minute (this request needs up to {demand.tokens})",
    }
    frees = f"It frees in {hit.wait:.1f} s." if hit.wait else "It frees when one of them ends."
    return f"{name} is at its limit of {texts[hit.limit]}. {frees}"


def _budget(hit: LimitHit, budget: Budget) -> str:
    whole = f"its budget of {_usd(budget.limit_nano)} USD {PERIODS[budget.period]}"
    if hit.left <= 0:
        spent = f"has spent {whole}"
    else:
        spent = f"has {_usd(hit.left)} USD left of {whole}, which this request may exceed"
    return f"{spent}. {_reset(hit.wait)}"


def _reset(wait: float) -> str:
    return "It does not reset." if wait == NEVER else f"It resets in {wait:.0f} s."


def _usd(nano: int) -> str:
    text = f"{Decimal(nano).scaleb(-9):.9f}".rstrip("0")
    whole, _, part = text.partition(".")
    return f"{whole}.{part:0<2}"
