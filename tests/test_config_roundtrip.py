"""dump_config, then load_config into an empty database, is the identity on every row."""

import contextlib
import os
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import transaction
from django.forms.models import model_to_dict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routing import strategies
from routing.config import dumper
from routing.config.loader import load_file
from routing.models import (
    ApiKey,
    GatewaySettings,
    ModelRoute,
    Provider,
    RouteFallback,
    RouteTarget,
    Team,
)
from routing.models.fallback import FallbackKind
from routing.models.limits import BudgetPeriod
from routing.models.provider import Continues
from routing.models.route import OnCut
from tests.factories import make_fallback, make_key, make_provider, make_route, make_target, make_team

pytestmark = pytest.mark.django_db

SPECIFICATION = Path(__file__).parent / "data" / "litellm_config_spec.yaml"
MODELS = (GatewaySettings, Team, Provider, ModelRoute, RouteTarget, ApiKey)  # parents before children
EXAMPLES = int(os.environ.get("EXAMPLES", "25"))  # of generated configurations
NOT_CONFIGURED = {"id", "created_at", "updated_at", "last_used_at", "revoked_at"}


def everything():
    """Every column of every row that is configuration, with names where there are row numbers."""
    found = {}
    for model in MODELS:
        for row in model.objects.all():
            values = {
                field.name: _value(getattr(row, field.name))
                for field in row._meta.concrete_fields
                if field.name not in NOT_CONFIGURED
            }
            if isinstance(row, Provider):
                values["api_key"] = row.api_key
            if isinstance(row, ApiKey):
                values["allowed_routes"] = sorted(route.name for route in row.allowed_routes.all())
            if isinstance(row, ModelRoute):
                values["fallbacks"] = {kind: fallbacks_of(row, kind) for kind in FallbackKind}
            found[f"{model.__name__} {row}"] = values
    return found


def fallbacks_of(route, kind):
    """Their names: the order counts, not the positions that make it."""
    links = route.fallback_links.filter(kind=kind).order_by("position", "pk")
    return [link.fallback.name for link in links]


def _value(value):
    if isinstance(value, Team | Provider | ModelRoute):
        return str(value)
    return value.normalize() if isinstance(value, Decimal) else value


def wipe():
    for model in reversed(MODELS):
        model.objects.all().delete()
    assert everything() == {}


def loaded(text, tmp_path):
    path = tmp_path / "dumped.yaml"
    path.write_text(text, encoding="utf-8")
    return load_file(path)


def there_and_back(tmp_path):
    before, text = everything(), dumper.dump()
    wipe()
    report = loaded(text, tmp_path)
    assert everything() == before
    assert report.reports == ()
    assert dumper.dump() == text
    again = loaded(text, tmp_path)
    assert again.changes == ()
    assert again.lines()[-1].startswith("nothing to change")


def test_the_specifications_configuration_survives(tmp_path, monkeypatch):
    for name in ("ZAI_API_KEY", "OPENAI_API_KEY", "PROXY_API_KEY", "MASTER_KEY"):
        monkeypatch.setenv(name, f"sk-{name.lower()}-of-the-specification")
    load_file(SPECIFICATION)
    assert (ModelRoute.objects.count(), Provider.objects.count()) == (3, 2)
    there_and_back(tmp_path)


def test_fallbacks_survive_in_their_order(tmp_path):
    best, cheap, old = (make_route(name=name) for name in ("best", "cheap", "${OLD}"))
    make_fallback(best, cheap, position=9)
    make_fallback(best, old, position=2)
    make_fallback(old, best, kind="policy")
    there_and_back(tmp_path)
    assert list(ModelRoute.objects.get(name="best").fallback_links.values_list("fallback__name")) == [
        ("${OLD}",),
        ("cheap",),
    ]


def test_a_key_whose_routes_are_all_deleted_stays_shut(tmp_path):
    """A file that forgot it would open every route to that key."""
    route = make_route(name="doomed")
    make_route(name="other")
    make_key(name="shut", allowed_routes=[route])
    route.delete()
    assert ApiKey.objects.get().restricted
    there_and_back(tmp_path)
    assert ApiKey.objects.get().restricted


def test_a_dumped_key_is_shut_again_where_it_was_open(tmp_path):
    route = make_route(name="doomed")
    key, _ = make_key(name="shut", allowed_routes=[route])
    route.delete()
    text = dumper.dump()
    make_route(name="new")
    ApiKey.objects.get(pk=key.pk).allowed_routes.set(ModelRoute.objects.all())
    loaded(text, tmp_path)
    key.refresh_from_db()
    assert key.restricted
    assert not key.allowed_routes.exists()


@pytest.mark.parametrize("slug", ["a-", "a.", "a__", "openai", "z-ai", "azure", "9"])
def test_any_valid_slug_is_found_again(tmp_path, slug):
    make_target(route=make_route(name="m"), provider=make_provider(slug=slug))
    there_and_back(tmp_path)


@pytest.mark.parametrize(
    "upstream_model", ["org/model", "a/b/c", "${HOME}", "os.environ/HOME", " x ", "1", "*"]
)
def test_any_upstream_model_is_found_again(tmp_path, upstream_model):
    make_target(route=make_route(name="m*"), upstream_model=upstream_model)
    there_and_back(tmp_path)


def test_every_line_break_survives(tmp_path):
    make_provider(slug="p", name="a\x85b\u2028c\u2029d\ufeffe\nf\r\ng\th ")
    there_and_back(tmp_path)


def test_the_commands_are_the_same(tmp_path):
    make_target(route=make_route(name="m"), provider=make_provider(slug="p", api_key="sk-secret-of-p"))
    make_key(name="k", team=make_team(slug="t"))
    before, file = everything(), tmp_path / "out.yaml"
    call_command("dump_config", output=str(file), stderr=StringIO())
    assert "sk-secret-of-p" not in file.read_text()
    wipe()
    output = StringIO()
    call_command("load_config", str(file), stdout=output)
    assert "created provider p" in output.getvalue()
    assert everything() == before


# Any configuration

slugs = st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,8}\Z")
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
names = st.one_of(
    words, st.sampled_from(["${HOME}", "$${X}", "os.environ/HOME", "yes", "1e3", "~", "<<", "="])
)
model_names = st.one_of(
    st.from_regex(r"\A[^\s*\0\ud800-\udfff]{1,10}\*?\Z"),
    st.sampled_from(["${HOME}", "1", "null", "a/*", "*"]),
)
some = st.none() | st.integers(1, 10**6)
limits = {
    "rpm": some,
    "tpm": some,
    "parallel": some,
    "budget_usd": st.none() | st.decimals(0, 10**5, places=9),
    "budget_period": st.sampled_from(BudgetPeriod.values),
}
tags = st.lists(st.sampled_from(["a", "b c", "${X}", "os.environ/HOME", "1"]), max_size=2, unique=True)
percent = st.none() | st.floats(0, 100)
scalars = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6) | names
parameters = st.dictionaries(
    names.filter(lambda name: name not in ("model", "messages", "stream")),
    scalars | st.lists(scalars, max_size=3) | st.dictionaries(names, scalars, max_size=2),
    max_size=3,
)
headers = st.dictionaries(
    st.from_regex(r"\Ax-[a-z]{1,8}\Z"), st.text("abc ${}'\"#:", min_size=1, max_size=10), max_size=2
)
price = st.none() | st.decimals(0, 10**7, places=6)
moment = st.none() | st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


def seconds(low, high):
    return st.floats(low, high)


providers = st.fixed_dictionaries(
    {
        "slug": slugs,
        "name": names,
        "dialect": st.sampled_from(["openai", "zai"]),
        "base_url": st.sampled_from(
            ["http://one:8000/v1", "https://two.example/a/b", "https://open.bigmodel.cn/v4"]
        ),
        "api_key": st.text("abcXYZ019-_$", max_size=20),
        "extra_headers": headers,
        "api_version": st.sampled_from(["", "2024-01-01", "v4", "1"]),
        "connect_timeout": seconds(0.1, 300),
        "read_timeout": seconds(0.1, 3600),
        "max_connections": st.integers(1, 65535),
        "queue_timeout": seconds(0, 300),
        "max_queue": st.integers(0, 100000),
        "prewarm": st.integers(0, 1000),
        "key_share_percent": st.integers(1, 100),
        "max_answer_bytes": st.integers(65536, 536870912),
        "keep_alive": seconds(0, 3600),
        "retries": st.integers(0, 10),
        "retry_delay": seconds(0, 60),
        "allow_caller_key": st.booleans(),
        "health_check_enabled": st.booleans(),
        "health_path": st.sampled_from(["", "models", "/v1/health", "/${X}"]),
        "health_interval": st.integers(5, 86400),
        "health_timeout": seconds(0.1, 60),
        "health_threshold": st.integers(1, 10),
        "when_unhealthy": st.sampled_from(["try", "refuse"]),
        "continues": st.sampled_from(Continues.values),
        "enabled": st.booleans(),
        **limits,
    }
)
routes = st.fixed_dictionaries(
    {
        "name": model_names,
        "aliases": st.lists(model_names.filter(lambda name: "*" not in name), max_size=2, unique=True),
        "deadline": seconds(0.1, 3600),
        "max_messages": st.none() | st.integers(1, 100000),
        "default_parameters": parameters,
        "strategy": st.sampled_from([name for name, _ in strategies.choices()]),
        "max_output_tokens": st.integers(1, 10**7),
        "max_attempts": st.integers(1, 50),
        "attempt_timeout": st.none() | seconds(0.05, 3600),
        "first_byte_timeout": st.none() | seconds(0.05, 3600),
        "stall_timeout": st.none() | seconds(0.05, 3600),
        "hedge_after_ms": st.none() | st.integers(1, 600_000),
        "on_cut": st.sampled_from(OnCut.values),
        "enabled": st.booleans(),
        **limits,
    }
)
targets = st.fixed_dictionaries(
    {
        "upstream_model": names,
        "weight": st.integers(0, 1000),
        "priority": st.integers(0, 1000),
        "input_price": price,
        "cached_input_price": price,
        "cache_write_price": price,
        "cache_write_1h_price": price,
        "reasoning_price": price,
        "audio_input_price": price,
        "audio_output_price": price,
        "image_input_price": price,
        "image_output_price": price,
        "request_price": price,
        "output_price": price,
        "tags": tags,
        "canary_percent": percent,
        "shadow_percent": percent,
        "enabled": st.booleans(),
        **limits,
    }
)
fallbacks = st.fixed_dictionaries(
    {"kind": st.sampled_from(FallbackKind.values), "position": st.integers(0, 1000)}
)
teams = st.fixed_dictionaries(
    {
        "slug": slugs,
        "name": names,
        "tags": tags,
        "time_zone": st.sampled_from(["UTC", "Europe/Berlin"]),
        "enabled": st.booleans(),
        **limits,
    }
)
gateway_settings = st.fixed_dictionaries(
    {
        "cors_origins": st.lists(
            st.sampled_from(["*", "http://a.example", "https://b:1"]), max_size=2, unique=True
        ),
        "breaker_enabled": st.booleans(),
        "breaker_failures": st.integers(1, 1000),
        "breaker_error_percent": st.integers(1, 100),
        "breaker_min_requests": st.integers(1, 100000),
        "cooldown_seconds": seconds(0.1, 3600),
    }
)
keys = st.fixed_dictionaries(
    {
        "name": names,
        "tags": tags,
        "expires_at": moment,
        "enabled": st.booleans(),
        **limits,
    }
)


def valid(row):
    """Saved as the admin would save it; None where the admin would refuse it."""
    with contextlib.suppress(ValidationError):
        row.full_clean()
        row.save()
        return row
    return None


def build(data):
    """A configuration such as admins could have made it."""
    if data.draw(st.booleans()):
        valid(GatewaySettings(pk=1, **data.draw(gateway_settings)))
    made = {
        model: [row for values in data.draw(st.lists(rows, max_size=3)) if (row := valid(model(**values)))]
        for model, rows in ((Team, teams), (Provider, providers), (ModelRoute, routes))
    }
    for route in made[ModelRoute]:
        route.over_limit_route = data.draw(st.sampled_from([None, *made[ModelRoute]]))
        if valid(route) is None:
            route.refresh_from_db()
        for other in made[ModelRoute]:
            for values in data.draw(st.lists(fallbacks, max_size=2)):
                valid(RouteFallback(route=route, fallback=other, **values))
        for provider in made[Provider]:
            for values in data.draw(st.lists(targets, max_size=2)):
                valid(RouteTarget(route=route, provider=provider, **values))
    for number, values in enumerate(data.draw(st.lists(keys, max_size=3))):
        key = ApiKey(team=data.draw(st.sampled_from([None, *made[Team]])), **values)
        key.set_plaintext(f"sk-generated-key-{number}")
        if valid(key) and made[ModelRoute]:
            key.allowed_routes.set(data.draw(st.lists(st.sampled_from(made[ModelRoute]), max_size=2)))
    for route in made[ModelRoute]:
        if data.draw(st.integers(0, 5)) == 0:
            route.delete()  # which leaves keys that may use nothing


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[*HealthCheck])
@given(data=st.data())
def test_any_configuration_survives(tmp_path, data):
    with transaction.atomic():
        build(data)
        there_and_back(tmp_path)
        transaction.set_rollback(True)


def test_the_comparison_sees_every_editable_column():
    """A column that is added later must not be forgotten by `everything`."""
    make_target(route=make_route(name="m"), provider=make_provider(slug="p"))
    make_key(name="k")
    found = everything()
    for row in (*Provider.objects.all(), *ModelRoute.objects.all(), *ApiKey.objects.all()):
        assert set(model_to_dict(row)) - {"id"} <= set(found[f"{type(row).__name__} {row}"])
