"""The control plane's rows: what the database refuses, and what makes workers compile anew."""

from decimal import Decimal

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from routing import gateway_keys
from routing.compiler import compile_table
from routing.models import ApiKey, GatewaySettings, ModelRoute, Provider, RouteTarget, RoutingVersion, Team
from tests.factories import make_key, make_provider, make_route, make_target, make_team

pytestmark = pytest.mark.django_db


def version():
    row = RoutingVersion.objects.first()
    return row.number if row else 0


def refusal(row, field="__all__"):
    with pytest.raises(ValidationError) as caught:
        row.full_clean()
    return caught.value.message_dict[field]


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (make_provider, {"connect_timeout": 0}),
        (make_provider, {"read_timeout": 3601}),
        (make_provider, {"max_connections": 0}),
        (make_provider, {"max_connections": 65536}),
        (make_provider, {"queue_timeout": -1}),
        (make_provider, {"max_queue": 100001}),
        (make_provider, {"prewarm": 1001}),
        (make_provider, {"key_share_percent": 0}),
        (make_provider, {"key_share_percent": 101}),
        (make_provider, {"max_answer_bytes": 65535}),
        (make_provider, {"max_answer_bytes": 536870913}),
        (make_provider, {"keep_alive": 3601}),
        (make_provider, {"retries": 11}),
        (make_provider, {"retry_delay": 61}),
        (make_provider, {"health_interval": 4}),
        (make_provider, {"health_timeout": 61}),
        (make_provider, {"health_threshold": 0}),
        (make_provider, {"rpm": 0}),
        (make_route, {"deadline": 0}),
        (make_route, {"max_messages": 0}),
        (make_route, {"max_attempts": 0}),
        (make_route, {"max_attempts": 51}),
        (make_route, {"attempt_timeout": 0}),
        (make_route, {"first_byte_timeout": 3601}),
        (make_route, {"stall_timeout": 0.01}),
        (make_route, {"hedge_after_ms": 0}),
        (make_route, {"hedge_after_ms": 600_001}),
        (make_route, {"on_cut": "sulk"}),
        (make_provider, {"continues": "maybe"}),
        (make_target, {"weight": 1001}),
        (make_target, {"priority": 1001}),
        (make_target, {"canary_percent": 100.5}),
        (make_target, {"shadow_percent": -1}),
        (make_target, {"canary_percent": 1, "shadow_percent": 1}),
        (make_target, {"input_price": Decimal("-0.01")}),
        (make_target, {"cached_input_price": Decimal(-1)}),
        (make_target, {"output_price": Decimal(-1)}),
        (make_target, {"tpm": 0}),
        (make_team, {"parallel": 0}),
        (lambda **values: make_key(**values)[0], {"budget_usd": Decimal(-1)}),
        (lambda **values: make_key(**values)[0], {"rpm": 0}),
    ],
)
def test_a_bulk_write_out_of_range_is_refused_by_the_database(make, values):
    row = make()
    with pytest.raises(IntegrityError), transaction.atomic():
        type(row).objects.filter(pk=row.pk).update(**values)


def test_bulk_created_twins_are_refused_by_the_database():
    target = make_target(upstream_model="m")
    twin = RouteTarget(route=target.route, provider=target.provider, upstream_model="m")
    with pytest.raises(IntegrityError), transaction.atomic():
        RouteTarget.objects.bulk_create([twin])


def test_a_second_row_of_settings_is_refused_by_the_database():
    GatewaySettings.load().save()
    with pytest.raises(IntegrityError), transaction.atomic():
        GatewaySettings.objects.bulk_create([GatewaySettings(pk=2)])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("read_timeout", 0, "Read timeout: allowed are 0.1 to 3,600."),
        ("retries", 11, "Retries: allowed are 0 to 10."),
        ("max_connections", 70000, "Max connections: allowed are 1 to 65,535."),
    ],
)
def test_a_refused_setting_of_a_provider_names_its_range(field, value, message):
    provider = make_provider()
    setattr(provider, field, value)
    assert refusal(provider) == [message]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("slug", "Not A Slug", "Allowed are 1 to 64 lower-case letters"),
        ("base_url", "ftp://example.com", "Allowed is an http or https URL without query"),
        ("base_url", "https://example.com/v1?key=1", "Allowed is an http or https URL without query"),
        ("base_url", "http://example.com:port", "Allowed is an http or https URL without query"),
        ("base_url", "https://me:pw@example.com", "isn't allowed: use the API key"),
        ("extra_headers", ["x"], "Allowed is a JSON object"),
        ("extra_headers", {"bad name": "x"}, "is not a header name"),
        ("extra_headers", {"Host": "x"}, "is set by the gateway itself"),
        ("extra_headers", {"x-a": "two\nlines"}, "allowed is one line of printable ASCII text"),
    ],
)
def test_a_refused_field_of_a_provider_says_what_is_allowed(field, value, message):
    provider = make_provider()
    setattr(provider, field, value)
    assert message in refusal(provider, field)[0]


@pytest.mark.parametrize("name", ["gpt-4o", "z-ai/glm-4-flash", "openai/*", "*", "a:b@c"])
def test_a_route_name_may_be(name):
    ModelRoute(name=name).full_clean()


@pytest.mark.parametrize("name", ["", " two", "two\nlines", "a*b", "**"])
def test_a_route_name_may_not_be(name):
    assert refusal(ModelRoute(name=name), "name")


def test_an_alias_belongs_to_one_route():
    make_route(name="first", aliases=["best"])
    assert refusal(ModelRoute(name="second", aliases=["best"]), "aliases") == [
        "best: already the name or an alias of a route."
    ]
    assert refusal(ModelRoute(name="best"), "name") == ["best is already an alias of the route first."]


def test_a_limit_says_what_is_allowed():
    refused = refusal(Team(slug="t", name="T", rpm=0), "rpm")
    assert refused == ["Allowed are 1 and more, or blank for no limit."]


def test_a_stored_credential_is_not_in_the_database_and_never_whole_in_its_mask():
    provider = make_provider(api_key="sk-0123456789abcdefghij")
    stored = Provider.objects.values().get()
    assert "0123456789" not in repr(stored)
    assert Provider.objects.get().api_key == "sk-0123456789abcdefghij"
    assert provider.masked_api_key == "…ghij"
    assert make_provider(api_key="short").masked_api_key == "…"
    assert make_provider().masked_api_key == ""


def test_a_credential_under_a_lost_key_is_told_apart_from_none(settings):
    provider = make_provider(api_key="sk-0123456789abcdefghij")
    settings.ENCRYPTION_KEYS = ["MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="]
    assert provider.masked_api_key.startswith("unreadable")


def test_a_keys_row_identifies_but_does_not_hold_the_plaintext():
    key, plaintext = make_key()
    stored = ApiKey.objects.values().get()
    assert plaintext not in repr(stored)
    assert stored["key_hash"] == gateway_keys.digest(plaintext).hex()
    assert len(make_key(plaintext="12345678")[0].prefix) <= 2
    assert key.prefix == plaintext[:12]


def test_serving_targets_need_route_and_provider_enabled_too():
    serving = make_target()
    make_target(enabled=False)
    make_target(route=make_route(enabled=False))
    make_target(provider=make_provider(enabled=False))
    assert list(RouteTarget.objects.serving()) == [serving]


@pytest.mark.parametrize(
    ("dialect", "path", "url"),
    [
        ("openai", "", "https://h.example:8443/api/v1/models"),
        ("zai", "", "https://h.example:8443/v1/health"),
        ("openai", "/up", "https://h.example:8443/up"),
        ("openai", "status", "https://h.example:8443/api/v1/status"),
    ],
)
def test_a_probe_goes_to(dialect, path, url):
    base = "https://h.example:8443/api/v1/"
    assert make_provider(dialect=dialect, health_path=path, base_url=base).health_url == url


@pytest.mark.parametrize("make", [make_provider, make_route, make_target, make_team, lambda: make_key()[0]])
def test_each_save_and_delete_is_published(make):
    row = make()
    seen = [version()]
    row.save()
    seen.append(version())
    row.delete()
    seen.append(version())
    assert seen[0] < seen[1] < seen[2]


def test_saving_the_gateway_settings_is_published():
    before = version()
    GatewaySettings.load().save()
    assert version() > before


def test_a_changed_choice_of_routes_is_published():
    key, _ = make_key()
    route = make_route()
    before = version()
    key.allowed_routes.add(route)
    added = version()
    key.allowed_routes.clear()
    assert before < added < version()


def test_a_bulk_update_is_published_once():
    for _ in range(3):
        make_provider()
    before = version()
    assert Provider.objects.update(enabled=False) == 3
    assert version() > before


def test_a_bulk_update_of_nothing_is_not_published():
    before = version()
    assert Provider.objects.filter(slug="none").update(enabled=False) == 0
    assert version() == before


def test_bulk_created_rows_are_published():
    before = version()
    Team.objects.bulk_create([Team(slug="a", name="A"), Team(slug="b", name="B")])
    assert version() > before


def test_a_bulk_delete_is_published():
    make_team()
    before = version()
    Team.objects.all().delete()
    assert version() > before


def test_a_quiet_update_is_not_published():
    key, _ = make_key()
    before = version()
    assert ApiKey.objects.filter(pk=key.pk).update_quietly(last_used_at=key.created_at) == 1
    assert version() == before


def test_a_change_that_is_rolled_back_is_not_published():
    before = version()
    with transaction.atomic():
        make_team()
        transaction.set_rollback(True)
    assert version() == before


@pytest.mark.parametrize("tag", ["", " a", "a ", "a,b", "x" * 65, "é", "a\n"])
def test_a_tag_that_no_header_could_carry_is_refused(tag):
    target = make_target()
    target.tags = [tag]
    with pytest.raises(ValidationError) as refused:
        target.full_clean()
    assert "tags" in refused.value.message_dict


def test_a_tag_may_have_blanks_and_signs_inside():
    target = make_target(tags=["team: search", "a/b-c_d"])
    target.full_clean()


def test_a_strategy_that_is_gone_falls_back_to_the_default(caplog):
    make_target(route=make_route(name="gpt", strategy="gone"))
    resolved = compile_table().resolve("gpt")
    assert resolved.route.strategy == "weighted"
    assert "there is no strategy 'gone'" in caplog.text


def test_a_tables_targets_come_by_priority_then_weight_and_stand_ins_last():
    route = make_route(name="gpt")
    for model, priority, weight in (("d", 2, 1), ("c", 1, 0), ("b", 1, 1), ("a", 1, 5)):
        make_target(route=route, upstream_model=model, priority=priority, weight=weight)
    make_target(route=route, upstream_model="s", shadow_percent=10)
    found = compile_table().resolve("gpt").route
    assert [target.upstream_model for target in found.targets] == ["a", "b", "c", "d"]
    assert [target.upstream_model for target in found.shadows] == ["s"]
