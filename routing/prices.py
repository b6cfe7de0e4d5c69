"""Prices per target: an admin's override, else the genai-prices list, else unknown."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from genai_prices.data_snapshot import get_snapshot

from routing.models import RouteTarget
from routing.table import Price

NANO = Decimal(10) ** 9
LISTED_AS = {"z-ai": ("zai", "zhipuai"), "zai": ("zai", "zhipuai")}
"""Provider slugs whose name in the price list differs."""


def price_of(target: RouteTarget) -> Price | None:
    """Nano-USD per million tokens; None where input or output has no known price."""
    listed = _listed(target.provider.slug, target.provider.base_url, target.upstream_model)
    input_price = _first(target.input_price, getattr(listed, "input_mtok", None))
    output_price = _first(target.output_price, getattr(listed, "output_mtok", None))
    if input_price is None or output_price is None:
        return None
    overridden = target.input_price is not None
    cached = _first(
        target.cached_input_price, None if overridden else getattr(listed, "cache_read_mtok", None)
    )
    return Price(input=input_price, output=output_price, cached_input=cached)


def _first(override: Decimal | None, listed: Any) -> int | None:
    value = override if override is not None else getattr(listed, "base", listed)
    return None if value is None else int(Decimal(value) * NANO)


def _listed(slug: str, base_url: str, model: str) -> Any:
    for provider_id in LISTED_AS.get(slug, (slug,)):
        if found := _listed_by(provider_id, None, model):
            return found
    return _listed_by(None, base_url, model)


def _listed_by(provider_id: str | None, api_url: str | None, model: str) -> Any:
    try:
        _, listed = get_snapshot().find_provider_model(model, None, provider_id, api_url)
    except LookupError:
        return None
    return listed.get_prices(datetime.now(UTC))
