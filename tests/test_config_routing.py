"""Strategies, tags, canaries, shadows and the breaker in litellm_config.yaml, both ways."""

from io import StringIO

import pytest
from django.core.management import call_command

from routing.compiler import compile_table
from routing.models import ApiKey, GatewaySettings, ModelRoute, Provider, RouteTarget, Team
from routing.table import BreakerRules
from tests.factories import make_key, make_provider, make_route, make_target, make_team

pytestmark = pytest.mark.django_db

ENTRY = (
    "model_list: [{model_name: gpt, litellm_params: {model: openai/gpt-4o, api_key: sk-1, tags: [vip]}}]\n"
)


def load(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    out = StringIO()
    call_command("load_config", str(path), stdout=out)
    return out.getvalue()


def dump():
    out = StringIO()
    call_command("dump_config", stdout=out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("word", "strategy"),
    [
        ("simple-shuffle", "weighted"),
        ("least-busy", "least_busy"),
        ("latency-based-routing", "lowest_latency"),
        ("cost-based-routing", "lowest_cost"),
    ],
)
def test_litellms_strategies_become_ours(tmp_path, word, strategy):
    text = f"{ENTRY}router_settings: {{routing_strategy: {word}}}"
    assert "routing_strategy" not in load(tmp_path, text)
    assert ModelRoute.objects.get().strategy == strategy
    assert "nothing to change" in load(tmp_path, text)


def test_litellms_cooldowns_become_the_breakers_settings(tmp_path):
    text = ENTRY + "router_settings: {cooldown_time: 12.5, allowed_fails: 4, disable_cooldowns: true}"
    assert "no effect" not in load(tmp_path, text)
    assert compile_table().breaker == BreakerRules(enabled=False, failures=5, cooldown=12.5)
    assert "nothing to change" in load(tmp_path, text)


def test_the_router_settings_come_before_the_litellm_settings(tmp_path):
    output = load(
        tmp_path, ENTRY + "router_settings: {allowed_fails: 4}\nlitellm_settings: {allowed_fails: 9}"
    )
    assert "litellm_settings.allowed_fails: no effect: router_settings.allowed_fails says it" in output
    assert GatewaySettings.objects.get().breaker_failures == 5


def test_an_entrys_tags_are_its_targets(tmp_path):
    load(tmp_path, ENTRY)
    assert RouteTarget.objects.get().tags == ["vip"]


def test_what_is_out_of_range_is_brought_into_it(tmp_path):
    text = ENTRY.replace("}}]", "}, model_info: {canary_percent: 101}}]")
    said = load(tmp_path, text)
    assert "model_info.canary_percent: 101 is out of range; 100 is taken. To do: write 0 to 100" in said
    assert RouteTarget.objects.get().canary_percent == 100


def test_everything_survives_a_dump_and_a_load(tmp_path):
    GatewaySettings.objects.create(
        pk=1,
        breaker_enabled=False,
        breaker_failures=7,
        breaker_error_percent=33,
        breaker_min_requests=44,
        cooldown_seconds=5.5,
    )
    route, provider = make_route(name="gpt", strategy="sticky"), make_provider(slug="p")
    make_target(route=route, provider=provider, upstream_model="a", tags=["vip", "${not} a reference"])
    make_target(route=route, provider=provider, upstream_model="b", canary_percent=2.5)
    make_target(route=route, provider=provider, upstream_model="c", shadow_percent=0)
    make_key(name="app", tags=["vip"], team=make_team(slug="search", tags=["batch"]))
    first = dump()
    for model in (ApiKey, Team, RouteTarget, ModelRoute, Provider, GatewaySettings):
        model.objects.all().delete()
    assert "no effect" not in load(tmp_path, first)
    assert dump() == first
    assert "nothing to change" in load(tmp_path, first)
    shares = RouteTarget.objects.order_by("upstream_model").values_list("canary_percent", "shadow_percent")
    assert list(shares) == [(None, None), (2.5, None), (None, 0)]
    assert RouteTarget.objects.get(upstream_model="a").tags == ["vip", "${not} a reference"]
    assert compile_table().breaker.failures == 7
