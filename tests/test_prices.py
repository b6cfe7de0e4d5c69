"""The price list, an admin's overrides, and when a listed price changes."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from genai_prices import Usage as ListedUsage
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)

from proxy.metering.usage import More, Usage, cost
from routing import prices
from routing.compiler import compile_table
from routing.models import Provider, RouteTarget
from tests.factories import make_provider, make_route, make_target

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
LISTS = ("openai", "anthropic", "google", "mistral", "deepseek", "x-ai")


def target(slug, model, **values):
    provider = Provider(slug=slug, base_url="http://127.0.0.1:9/v1")
    return RouteTarget(provider=provider, upstream_model=model, **values)


@pytest.mark.parametrize("size", [900, 150_000, 300_000])
def test_costs_are_those_that_the_price_list_itself_works_out(size):
    """For each model of the big providers, tiers and caches included."""
    usage = Usage(size, 4000, size // 2, 0, More(cache_write=size // 4))
    listed_usage = ListedUsage(
        input_tokens=size, output_tokens=4000, cache_read_tokens=size // 2, cache_write_tokens=size // 4
    )
    compared = 0
    for provider in get_snapshot().providers:
        for model in provider.models if provider.id in LISTS else ():
            price = prices.price_of(target(provider.id, model.id), NOW)
            if price is not None and model.is_match(model.id):
                listed = model.calc_price(listed_usage, provider, genai_request_timestamp=NOW).total_price
                assert abs(Decimal(cost(usage, price)) - listed * 10**9) <= 1, model.id
                compared += 1
    assert compared > 100


def model_info(*conditions):
    found = [ConditionalPrice(constraint, prices=price) for constraint, price in conditions]
    return ModelInfo(id="m", match=ClauseEquals("m"), prices=found)


@pytest.fixture
def listed(monkeypatch):
    """The list knows one model."""

    def make(*conditions):
        monkeypatch.setattr(prices, "_model_of", lambda _: model_info(*conditions))
        return target("any", "m")

    return make


def flat(price):
    return ModelPrice(input_mtok=Decimal(price), output_mtok=Decimal(price))


def test_a_price_holds_from_its_date_on(listed):
    row = listed((None, flat(2)), (StartDateConstraint(start_date=NOW.date() + timedelta(days=1)), flat(3)))
    assert prices.price_of(row, NOW).input == 2 * 10**9
    change = datetime.fromtimestamp(prices.next_change([row], NOW), UTC)
    assert change == datetime(2026, 7, 2, tzinfo=UTC)
    assert prices.price_of(row, change - timedelta(microseconds=1)).input == 2 * 10**9
    assert prices.price_of(row, change).input == 3 * 10**9
    assert prices.next_change([row], change) == float("inf")


def test_a_price_holds_at_its_hours(listed):
    night = TimeOfDateConstraint(
        start_time=NOW.replace(hour=16, minute=30).timetz(), end_time=NOW.replace(hour=0, minute=30).timetz()
    )
    row = listed((None, flat(2)), (night, flat(1)))
    begins = datetime.fromtimestamp(prices.next_change([row], NOW), UTC)
    ends = datetime.fromtimestamp(prices.next_change([row], begins), UTC)
    assert (begins, ends) == (NOW.replace(hour=16, minute=30), NOW.replace(day=2, hour=0, minute=30))
    found = [prices.price_of(row, moment).input for moment in (NOW, begins, ends)]
    assert found == [2 * 10**9, 10**9, 2 * 10**9]


def test_above_a_tiers_start_all_tokens_cost_its_price(listed):
    tiered = ModelPrice(
        input_mtok=TieredPrices(base=Decimal("1.25"), tiers=[Tier(start=200_000, price=Decimal("2.5"))]),
        cache_read_mtok=Decimal("0.1"),
        output_mtok=TieredPrices(base=Decimal(10), tiers=[Tier(start=200_000, price=Decimal(15))]),
    )
    price = prices.price_of(listed((None, tiered)), NOW)
    assert cost(Usage(200_000, 1000, 100_000), price) == 125_000_000 + 10_000_000 + 10_000_000
    assert cost(Usage(200_001, 1000, 100_001), price) == 250_000_000 + 10_000_100 + 15_000_000
    assert price.at(200_001).text == "input 2.5, output 15, cached_input 0.1"


def test_a_whole_that_is_overridden_takes_its_parts_with_it(listed):
    listed_price = ModelPrice(
        input_mtok=TieredPrices(base=Decimal(1), tiers=[Tier(start=10, price=Decimal(2))]),
        cache_read_mtok=Decimal("0.1"),
        cache_write_mtok=Decimal("1.25"),
        output_mtok=Decimal(5),
        output_reasoning_mtok=Decimal(3),
        requests_kcount=Decimal(12),
    )
    row = listed((None, listed_price))
    row.input_price, row.cache_write_price = Decimal(4), Decimal(6)
    price = prices.price_of(row, NOW)
    assert price.text == "input 4, output 5, cache_write 6, reasoning 3, request 0.012"
    assert price.tiers == ()
    row.output_price, row.request_price = Decimal(7), Decimal(0)
    assert prices.price_of(row, NOW).text == "input 4, output 7, cache_write 6"


def test_half_a_price_is_unknown(listed):
    row = listed((None, ModelPrice(input_mtok=Decimal(1))))
    assert prices.price_of(row, NOW) is None
    row.output_price = Decimal(2)
    assert prices.price_of(row, NOW).text == "input 1, output 2"


@pytest.mark.django_db
def test_the_table_is_compiled_anew_when_a_price_changes(monkeypatch):
    """So each request is priced as the list says at its time."""
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    later = model_info((None, flat(2)), (StartDateConstraint(start_date=tomorrow), flat(3)))
    monkeypatch.setattr(prices, "_model_of", lambda _: later)
    make_target(route=make_route(name="gpt"), provider=make_provider())
    table = compile_table()
    assert datetime.fromtimestamp(table.valid_until, UTC).date() == tomorrow
    (entry,) = table.routes["gpt"].route.targets
    assert entry.price.input == 2 * 10**9
