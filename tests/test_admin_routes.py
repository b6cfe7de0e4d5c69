"""Model routes, their targets and the gateway settings in the admin, through its real pages."""

import re

import pytest
from django.urls import reverse

from routing.models import GatewaySettings, ModelRoute, RouteTarget, RoutingVersion
from tests.factories import make_provider, make_route, make_target

LIST = reverse("admin:routing_modelroute_changelist")
ADD = reverse("admin:routing_modelroute_add")
TARGETS = reverse("admin:routing_routetarget_changelist")


def change(row):
    return reverse(f"admin:routing_{row._meta.model_name}_change", args=[row.pk])


def form(*targets, **values):
    """The route's form with one inline row for each mapping in targets."""
    data = {
        "name": "gpt-4o",
        "aliases": "",
        "strategy": "ordered",
        "deadline": "600",
        "max_attempts": "10",
        "on_cut": "error",
        "max_messages": "",
        "max_output_tokens": "4096",
        "budget_period": "total",
        "default_parameters": "",
        "enabled": "on",
        "targets-TOTAL_FORMS": len(targets),
        "targets-INITIAL_FORMS": sum("id" in target for target in targets),
        "fallback_links-TOTAL_FORMS": "0",
        "fallback_links-INITIAL_FORMS": "0",
        **values,
    }
    for number, target in enumerate(targets):
        row = {"priority": "1", "weight": "1", "enabled": "on", "budget_period": "total", **target}
        data |= {f"targets-{number}-{name}": value for name, value in row.items()}
    return data


def errors(response):
    assert response.status_code == 200
    return response.context["adminform"].form.errors


def run(client, action, *rows, url=LIST):
    answer = client.post(url, {"action": action, "_selected_action": [row.pk for row in rows]}, follow=True)
    return [str(message) for message in answer.context["messages"]]


def test_a_route_is_saved_with_its_targets(admin_client):
    provider = make_provider()
    target = {"provider": provider.pk, "upstream_model": "gpt-4o-2024", "rpm": "5", "input_price": "2.5"}
    values = form(target, aliases="gpt-4\r\nbest\r\n", default_parameters='{"temperature": 0.7}')
    assert admin_client.post(ADD, values).status_code == 302
    route = ModelRoute.objects.get()
    assert route.aliases == ["gpt-4", "best"]
    assert route.default_parameters == {"temperature": 0.7}
    saved = route.targets.get()
    assert (saved.upstream_model, saved.rpm, saved.input_price) == ("gpt-4o-2024", 5, 2.5)


def test_a_json_list_of_aliases_is_taken_too(admin_client):
    admin_client.post(ADD, form(aliases='["gpt-4", "best"]'))
    assert ModelRoute.objects.get().aliases == ["gpt-4", "best"]


def test_blank_aliases_and_parameters_are_empty_not_null(admin_client):
    assert admin_client.post(ADD, form()).status_code == 302
    route = ModelRoute.objects.get()
    assert (route.aliases, route.default_parameters) == ([], {})


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("name", "two*words", "Allowed are names on one line"),
        ("aliases", "fine\ntwo*words", "two*words: Allowed are names on one line"),
        ("aliases", "a\na", "A name is listed twice"),
        ("aliases", "[1]", "Allowed are names, one on each line"),
        ("aliases", "gpt-4o", "gpt-4o: already the name or an alias of a route."),
        ("aliases", "taken-alias", "taken-alias: already the name or an alias of a route."),
        ("name", "taken-alias", "taken-alias is already an alias of the route taken."),
        ("default_parameters", '{"temperature": }', "Not valid JSON at line 1, column 17"),
        ("default_parameters", "[]", "Allowed is a JSON object"),
        ("default_parameters", '{"model": "x"}', "model belongs to the caller's request"),
        ("default_parameters", '{"top_p": Infinity}', "Infinity is not a JSON value"),
    ],
)
def test_a_refused_field_says_what_is_allowed_and_keeps_the_text(admin_client, field, text, message):
    make_route(name="taken", aliases=["taken-alias"])
    answer = admin_client.post(ADD, form(**{field: text}))
    assert message in " ".join(errors(answer)[field])
    bound = answer.context["adminform"].form[field]
    shown = bound.field.widget.format_value(bound.value())
    assert "".join(shown.split()) == "".join(text.split())


def test_the_same_model_of_the_same_provider_twice_is_refused(admin_client):
    twin = {"provider": make_provider().pk, "upstream_model": "m"}
    answer = admin_client.post(ADD, form(twin, twin))
    assert answer.status_code == 200
    assert "duplicate" in answer.content.decode()
    assert not ModelRoute.objects.exists()


def test_a_target_that_the_route_already_has_is_refused(admin_client):
    target = make_target(upstream_model="m")
    data = {
        "route": target.route.pk,
        "provider": target.provider.pk,
        "upstream_model": "m",
        "priority": 1,
        "weight": 1,
    }
    found = errors(admin_client.post(reverse("admin:routing_routetarget_add"), data))
    assert found["__all__"] == ["This route already has this model of this provider."]


def test_a_wildcard_target_needs_a_wildcard_route(admin_client):
    data = {
        "route": make_route().pk,
        "provider": make_provider().pk,
        "upstream_model": "*",
        "priority": 1,
        "weight": 1,
    }
    found = errors(admin_client.post(reverse("admin:routing_routetarget_add"), data))
    assert found["upstream_model"] == ["A * is allowed only where the route's name ends with one."]


def test_the_list_links_each_target(admin_client):
    target = make_target(provider=make_provider(slug="openai"), upstream_model="gpt-4o-2024")
    page = admin_client.get(LIST).content.decode()
    assert re.search(rf'href="{change(target)}"[^>]*>openai/gpt-4o-2024</a>', page)


def test_a_long_list_of_targets_ends_with_a_link_to_all(admin_client):
    route = make_route()
    for _ in range(6):
        make_target(route=route)
    page = admin_client.get(LIST).content.decode()
    assert re.search(rf'href="{re.escape(TARGETS)}\?route__id__exact={route.pk}"[^>]*>and 2 more</a>', page)


def test_routes_are_enabled_and_disabled_in_bulk(admin_client):
    routes = [make_route(), make_route()]
    before = RoutingVersion.objects.get().number
    assert run(admin_client, "disable", *routes) == ["2 model routes disabled."]
    assert RoutingVersion.objects.get().number > before
    assert not ModelRoute.objects.enabled().exists()
    assert run(admin_client, "enable", routes[0]) == ["1 model route enabled."]
    assert ModelRoute.objects.enabled().get() == routes[0]


def test_a_duplicate_has_the_targets_but_not_the_aliases_and_is_disabled(admin_client):
    route = make_route(name="gpt-4o", aliases=["best"], max_messages=50, default_parameters={"top_p": 1})
    first = make_target(route=route, weight=3, input_price="1.5")
    second = make_target(route=route, priority=2, rpm=9, enabled=False)
    before = RoutingVersion.objects.get().number
    (message,) = run(admin_client, "duplicate", route)
    copy = ModelRoute.objects.get(name="gpt-4o-copy")
    assert f'href="{change(copy)}"' in message
    assert (copy.enabled, copy.aliases, copy.max_messages) == (False, [], 50)
    assert copy.default_parameters == {"top_p": 1}
    names = ("provider", "upstream_model", "weight", "priority", "rpm", "input_price", "enabled")
    assert list(copy.targets.values_list(*names)) == list(route.targets.values_list(*names))
    assert {first.pk, second.pk} == set(route.targets.values_list("pk", flat=True))
    assert RoutingVersion.objects.get().number > before


@pytest.mark.parametrize(
    ("name", "copies"),
    [
        ("gpt-4o", ["gpt-4o-copy", "gpt-4o-copy-2", "gpt-4o-copy-3"]),
        ("openai/*", ["openai-copy/*", "openai-copy-2/*"]),
        ("gpt*", ["gpt-copy*", "gpt-copy-2*"]),
        ("*", ["copy*", "copy-2*"]),
        ("x" * 200, ["x" * 195 + "-copy", "x" * 193 + "-copy-2"]),
    ],
)
def test_each_duplicate_gets_a_free_valid_name(admin_client, name, copies):
    route = make_route(name=name)
    for copy in copies:
        run(admin_client, "duplicate", route)
        ModelRoute.objects.get(name=copy).full_clean()


def test_a_duplicate_does_not_take_the_alias_of_another_route(admin_client):
    route = make_route(name="gpt-4o")
    make_route(name="other", aliases=["gpt-4o-copy"])
    run(admin_client, "duplicate", route)
    assert ModelRoute.objects.filter(name="gpt-4o-copy-2").exists()


def test_targets_are_switched_searched_and_filtered(admin_client):
    wanted = make_target(
        route=make_route(name="wanted-route"), provider=make_provider(slug="wanted-provider")
    )
    make_target(enabled=False)
    queries = (
        "q=wanted-route",
        "q=wanted-provider",
        f"route__id__exact={wanted.route_id}",
        "enabled__exact=1",
    )
    for query in queries:
        assert list(admin_client.get(f"{TARGETS}?{query}").context["cl"].result_list) == [wanted]
    assert run(admin_client, "disable", wanted, url=TARGETS) == ["1 route target disabled."]
    assert not RouteTarget.objects.filter(enabled=True).exists()


def test_a_target_links_to_its_route_and_provider(admin_client):
    target = make_target()
    for page in (admin_client.get(TARGETS), admin_client.get(change(target))):
        assert change(target.route) in page.content.decode()
        assert change(target.provider) in page.content.decode()


def test_the_route_list_takes_the_same_queries_for_any_number_of_rows(
    admin_client, django_assert_num_queries
):
    provider = make_provider()
    for _ in range(5):
        route = make_route(aliases=[])
        make_target(route=route, provider=provider)
        make_target(route=route, provider=provider)
    admin_client.get(LIST)
    with django_assert_num_queries(7):  # session, user, provider filter, two counts, rows, targets
        admin_client.get(LIST)


def test_the_target_list_takes_the_same_queries_for_any_number_of_rows(
    admin_client, django_assert_num_queries
):
    for _ in range(5):
        make_target()
    admin_client.get(TARGETS)
    with django_assert_num_queries(7):  # session, user, two filters, two counts, rows
        admin_client.get(TARGETS)


def test_the_route_form_takes_the_same_queries_for_any_number_of_targets(
    admin_client, django_assert_num_queries
):
    route = make_route()
    for _ in range(5):
        make_target(route=route)
    admin_client.get(change(route))
    with django_assert_num_queries(
        9
    ):  # session, user, route, targets (list, form, live state), providers twice, fallbacks
        admin_client.get(change(route))


def test_gateway_settings_are_one_row_that_is_made_when_looked_for(admin_client):
    answer = admin_client.get(reverse("admin:routing_gatewaysettings_changelist"))
    row = GatewaySettings.objects.get()
    assert answer.url == change(row)
    page = admin_client.get(answer.url)
    assert page.status_code == 200
    assert admin_client.get(reverse("admin:routing_gatewaysettings_add")).status_code == 403
    assert admin_client.post(reverse("admin:routing_gatewaysettings_delete", args=[1])).status_code == 403


def test_gateway_settings_take_origins_line_by_line(admin_client):
    row = GatewaySettings.objects.create(pk=1)
    breaker = {
        "breaker_enabled": "on",
        "breaker_failures": "4",
        "breaker_error_percent": "25",
        "breaker_min_requests": "10",
        "cooldown_seconds": "7.5",
        "log_days": "90",
        "content_days": "7",
    }
    origins = "https://a.example\nhttp://localhost:3000"
    admin_client.post(change(row), breaker | {"cors_origins": origins})
    row.refresh_from_db()
    assert (row.breaker_failures, row.breaker_error_percent, row.cooldown_seconds) == (4, 25, 7.5)
    assert row.cors_origins == ["https://a.example", "http://localhost:3000"]
    answer = admin_client.post(change(row), breaker | {"cors_origins": "https://a.example/path"})
    assert "allowed are a scheme and a host without a path" in errors(answer)["cors_origins"][0]


def test_gateway_settings_are_closed_to_staff_without_the_permission(client, django_user_model):
    client.force_login(django_user_model.objects.create_user("guest", is_staff=True))
    assert client.get(reverse("admin:routing_gatewaysettings_changelist")).status_code == 403
    assert not GatewaySettings.objects.exists()
