"""Refusals say what helps who is refused, and nobody else; SDKs are told what no retry mends."""

import dataclasses
import time
from types import SimpleNamespace

import pytest

from proxy.access.identify import identify
from proxy.errors import InvalidApiKey
from proxy.targets.similar import did_you_mean, usable_models
from routing.gateway_keys import digest
from routing.prices import price_of
from routing.table import EMPTY_TABLE, KeyEntry, Resolved
from tests.factories import make_key, make_provider, make_route, make_target

FACTS = {"id": 1, "name": "k", "team": None, "route_ids": None, "limit_owners": (), "enabled": True}


@pytest.fixture
def gpt(upstream, published):
    provider = make_provider(slug="p1", base_url=upstream.url("p1"))
    routes = [make_route(name=name) for name in ("gpt-4o", "gpt-4o-mini", "secret-gpt-4")]
    for route in routes:
        make_target(route=route, provider=provider)
    _, key = make_key(allowed_routes=routes[:2])
    published()
    return key


def message(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["x-should-retry"] == "false"
    return answer.json()["error"]["message"]


MEANT = [("gpt4o", "gpt-4o"), ("GPT-4O", "gpt-4o"), ("gpt-4o-min", "gpt-4o-mini")]


@pytest.mark.parametrize(("asked", "meant"), MEANT)
def test_a_wrong_model_is_answered_with_the_one_that_was_meant(door, gpt, asked, meant):
    assert message(door.chat(gpt, asked), 404).endswith(f"Did you mean {meant}?")


def test_what_the_key_may_not_use_is_never_meant(door, gpt):
    told = message(door.chat(gpt, "secret-gpt-5"), 404)
    assert "secret-gpt-4" not in told
    assert "Did you mean" not in message(door.chat(gpt, "something else"), 404)


def test_a_key_that_may_not_use_a_model_is_told_which_it_may(door, gpt):
    told = message(door.chat(gpt, "secret-gpt-4"), 403)
    assert told.startswith("This API key may not use the model secret-gpt-4. It may use gpt-4o")
    assert "gpt-4o-mini" in told


def test_a_wrong_key_is_told_how_it_begins_and_no_row_is(door, gpt, logged):
    answer = door.chat("sk-wrong-0123456789abcdef")
    assert message(answer, 401) == "Unknown API key. It begins with sk-wro."
    assert "sk-wro" not in str(vars(logged(answer)))


@pytest.mark.parametrize(
    ("key", "shown"), [("abcdefghi", "abc"), ("ab", ""), ("\xe9" * 30, ""), ("x" * 300, "xxxxxx")]
)
@pytest.mark.parametrize(("header", "before"), [(b"authorization", b"Bearer "), (b"x-api-key", b"")])
def test_no_more_than_a_third_of_a_wrong_key_is_shown(header, before, key, shown):
    with pytest.raises(InvalidApiKey) as refused:
        identify({header: before + key.encode("latin-1")}, EMPTY_TABLE)
    assert str(refused.value) == "Unknown API key." + (f" It begins with {shown}." if shown else "")


def test_an_expired_key_is_told_since_when_and_a_replaced_one_that_it_was():
    entry = KeyEntry(expires_at=86400.0, **FACTS)
    table = dataclasses.replace(
        EMPTY_TABLE, keys={digest(b"k" * 30): entry}, retired_keys={digest(b"r" * 30): None}
    )
    with pytest.raises(InvalidApiKey, match="expired on 1970-01-02 at 00:00 UTC"):
        identify({b"authorization": b"Bearer " + b"k" * 30}, table)
    with pytest.raises(InvalidApiKey, match="was replaced or deleted"):
        identify({b"authorization": b"Bearer " + b"r" * 30}, table)


def test_looking_for_what_was_meant_takes_bounded_time():
    key = KeyEntry(expires_at=None, **FACTS)
    routes = {f"{'a' * 70}{number}": Resolved(SimpleNamespace(id=1)) for number in range(20_000)}
    table = dataclasses.replace(EMPTY_TABLE, routes=routes)
    before = time.thread_time()
    did_you_mean("ab" * 128, key, table)
    assert time.thread_time() - before < 0.05
    assert len(usable_models(key, table)) < 1000


@pytest.mark.django_db
def test_the_demo_providers_price_is_0_so_that_a_budget_can_be_tried_with_it():
    target = make_target(provider=make_provider(slug="demo", base_url="http://demo.invalid/v1"))
    price = price_of(target)
    assert (price.input, price.output) == (0, 0)
