"""How a limit that has no room is put to the caller."""

from collections.abc import Sequence
from decimal import Decimal

from proxy.admission.base import NEVER, Headrooms, Need, NoRoom
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


def refused(reasons: Sequence[NoRoom], need: Need, headrooms: Headrooms = (None, None)) -> RateLimited:
    """The error for a call that nothing has room for: of the limit that frees first."""
    first = min(reasons, key=lambda reason: reason.wait)
    kind = PriceUnknown if first.limit == "price" else RateLimited
    error = kind(
        message(first, need),
        code=QUOTA if first.limit == "budget" else "",
        retry_after=None if first.wait == NEVER else max(first.wait, 0.001),
    )
    error.headrooms = headrooms
    return error


def message(reason: NoRoom, need: Need) -> str:
    limits, budget = reason.claim.limits, reason.claim.budget
    owner = f"{OWNERS[reason.claim.kind]} {reason.claim.name}"
    if reason.limit == "budget":
        assert budget is not None
        return f"{owner} {_budget(reason, budget)}"
    if reason.limit == "price":
        return (
            f"{owner} has a budget, and the price of what would serve this request is unknown: "
            "an admin must set the target's prices."
        )
    texts = {
        "parallel": f"{limits.parallel} requests at the same time",
        "rpm": f"{limits.rpm} requests per minute",
        "tpm": f"{limits.tpm} tokens per minute (this request needs up to {need.tokens})",
    }
    frees = f"It frees in {reason.wait:.1f} s." if reason.wait else "It frees when one of them ends."
    return f"{owner} is at its limit of {texts[reason.limit]}. {frees}"


def _budget(reason: NoRoom, budget: Budget) -> str:
    whole = f"its budget of {_usd(budget.limit_nano)} USD {PERIODS[budget.period]}"
    if reason.left <= 0:
        spent = f"has spent {whole}"
    else:
        spent = f"has {_usd(reason.left)} USD left of {whole}, which this request may exceed"
    return f"{spent}. {_reset(reason.wait)}"


def _reset(wait: float) -> str:
    return "It does not reset." if wait == NEVER else f"It resets in {wait:.0f} s."


def _usd(nano: int) -> str:
    text = f"{Decimal(nano).scaleb(-9):.9f}".rstrip("0")
    whole, _, part = text.partition(".")
    return f"{whole}.{part:0<2}"
