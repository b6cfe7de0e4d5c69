"""Prices per target: an admin's override, else the genai-prices list, else unknown."""

import math
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from routing.demo_provider import DEMO_URL
from routing.models import RouteTarget
from routing.price import Price, Tier

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, TieredPrices

NANO = Decimal(10) ** 9
LISTED_AS = {"z-ai": ("zai", "zhipuai"), "zai": ("zai", "zhipuai")}
"""Provider slugs whose name in the price list differs."""

_GIVEN = {
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "audio_input": "input_audio_mtok",
    "image_input": "input_image_mtok",
}
_MADE = {
    "reasoning": "output_reasoning_mtok",
    "audio_output": "output_audio_mtok",
    "image_output": "output_image_mtok",
}
_LISTED = {"input": "input_mtok", "output": "output_mtok"} | _GIVEN | _MADE
"""Our names of the classes, and the list's."""


def price_of(target: RouteTarget, now: datetime | None = None) -> Price | None:
    """Of calls that arrive now; None where input or output has no known price."""
    model = _model_of(target)
    listed = model.get_prices(now or datetime.now(UTC)) if model is not None else None
    base = _price(target, listed, 0)
    if base is None:
        return None
    tiers = [Tier(above, price) for above in _steps(listed) if (price := _price(target, listed, above + 1))]
    flat = all(tier.price == base for tier in tiers)
    return base if flat else _with_tiers(base, tuple(tiers))


def _with_tiers(base: Price, tiers: tuple[Tier, ...]) -> Price:
    fields = {name: getattr(base, name) for name in _LISTED}
    return Price(**fields, request=base.request, tiers=tiers)


def _price(target: RouteTarget, listed: Any, input_tokens: int) -> Price | None:
    """The parts of an overridden whole are not the list's: they would be parts of another price."""
    left_out = {
        *(_GIVEN if target.input_price is not None else ()),
        *(_MADE if target.output_price is not None else ()),
    }
    found: dict[str, int | None] = {}
    for name, listed_name in _LISTED.items():
        own = getattr(target, f"{name}_price", None)
        value = None if name in left_out else _at(getattr(listed, listed_name, None), input_tokens)
        found[name] = _nano(own if own is not None else value)
    if target.provider.base_url == DEMO_URL:  # it echoes: nobody is paid
        found |= {name: found[name] or 0 for name in ("input", "output")}
    if found["input"] is None or found["output"] is None:
        return None
    per_thousand = _at(getattr(listed, "requests_kcount", None), input_tokens)
    per_request = target.request_price
    if per_request is None:
        per_request = Decimal(per_thousand or 0) / 1000
    return Price(**found, request=_nano(per_request) or 0)  # type: ignore[arg-type] # the two are known


def _nano(usd: Decimal | None) -> int | None:
    return None if usd is None else int(usd * NANO)


def _at(listed: "Decimal | TieredPrices | None", input_tokens: int) -> Decimal | None:
    if listed is None or isinstance(listed, Decimal):
        return listed
    reached = [tier.price for tier in listed.tiers if input_tokens > tier.start]
    return reached[-1] if reached else listed.base


def _steps(listed: Any) -> list[int]:
    """Input tokens above which some price of the list is another one."""
    names = [*_LISTED.values(), "requests_kcount"]
    tiered = [getattr(getattr(listed, name, None), "tiers", ()) for name in names]
    return sorted({tier.start for tiers in tiered for tier in tiers})


def next_change(targets: Iterable[RouteTarget], now: datetime) -> float:
    """Unix seconds when the list's price of one of these models changes next; infinite where none will."""
    moments = [
        moment.timestamp()
        for target in targets
        if (model := _model_of(target)) is not None
        for moment in _moments(model, now)
        if moment > now
    ]
    return min(moments, default=math.inf)


def _moments(model: "ModelInfo", now: datetime) -> Iterator[datetime]:
    """A day's hours are given for today and tomorrow, so that one of them lies ahead."""
    if not isinstance(model.prices, list):
        return
    today = now.astimezone(UTC).date()
    for constraint in (one.constraint for one in model.prices):
        if (start := getattr(constraint, "start_date", None)) is not None:
            yield _moment(start, time())
        for name in ("start_time", "end_time"):
            if (hour := getattr(constraint, name, None)) is not None:
                yield _moment(today, hour)
                yield _moment(today + timedelta(days=1), hour)


def _moment(day: date, hour: time) -> datetime:
    return datetime.combine(day, hour, hour.tzinfo or UTC)


def _model_of(target: RouteTarget) -> "ModelInfo | None":
    slug, model = target.provider.slug, target.upstream_model
    for provider_id in LISTED_AS.get(slug, (slug,)):
        if found := _listed(provider_id, None, model):
            return found
    return _listed(None, target.provider.base_url, model)


def _listed(provider_id: str | None, api_url: str | None, model: str) -> "ModelInfo | None":
    # Takes 0.3 s to load, and of a gateway's processes only those that compile tables need it.
    from genai_prices.data_snapshot import get_snapshot

    try:
        _, listed = get_snapshot().find_provider_model(model, None, provider_id, api_url)
    except LookupError:
        return None
    return listed
