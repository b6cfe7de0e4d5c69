"""Fallbacks and settings for failures: the database, the table and the admin's pages."""

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from routing.compiler import compile_table
from routing.models import ModelRoute, Provider, RouteFallback, RoutingVersion
from tests.factories import make_fallback, make_provider, make_route, make_target
from tests.test_admin_providers import form as provider_form
from tests.test_admin_routes import change, errors, form, run

pytestmark = pytest.mark.django_db

ADD = reverse("admin:routing_modelroute_add")


def version():
    return RoutingVersion.objects.get().number


def entry(route):
    return compile_table().route_by_id(route.pk)


def rows(*links, initial=0):
    """The inline's part of the form."""
    data = {"fallback_links-TOTAL_FORMS": len(links), "fallback_links-INITIAL_FORMS": initial}
    for number, link in enumerate(links):
        filled = {"kind": "error", "position": "1", **link}
        data |= {f"fallback_links-{number}-{name}": value for name, value in filled.items()}
    return data


# Rows


def test_the_database_refuses_a_route_as_its_own_fallback():
    route = make_route()
    with pytest.raises(IntegrityError), transaction.atomic():
        RouteFallback.objects.bulk_create([RouteFallback(route=route, fallback=route)])
    with pytest.raises(ValidationError, match="A route can't be its own fallback"):
        RouteFallback(route=route, fallback=route).full_clean()


def test_the_database_refuses_the_same_fallback_of_one_kind_twice():
    route, other = make_route(), make_route()
    make_fallback(route, other)
    make_fallback(route, other, kind="context")
    make_fallback(other, route)  # a circle does no harm: only the requested route's list is followed
    with pytest.raises(IntegrityError), transaction.atomic():
        RouteFallback.objects.bulk_create([RouteFallback(route=route, fallback=other)])
    with pytest.raises(ValidationError, match="already has this fallback for this kind of failure"):
        RouteFallback(route=route, fallback=other).full_clean()


@pytest.mark.parametrize("values", [{"position": 1001}, {"kind": "mood"}])
def test_the_database_refuses_what_is_out_of_range(values):
    link = make_fallback(make_route(), make_route())
    with pytest.raises(IntegrityError), transaction.atomic():
        RouteFallback.objects.filter(pk=link.pk).update(**values)


def test_a_wildcard_is_refused_as_a_fallback():
    with pytest.raises(ValidationError, match=r"Allowed is a route whose name has no \*"):
        RouteFallback(route=make_route(), fallback=make_route(name="openai/*")).full_clean()


def test_each_change_of_a_fallback_is_published():
    route, other = make_route(), make_route()
    numbers = [version()]
    link = make_fallback(route, other)
    numbers.append(version())
    RouteFallback.objects.filter(pk=link.pk).update(position=2)
    numbers.append(version())
    RouteFallback.objects.bulk_create([RouteFallback(route=route, fallback=other, kind="policy")])
    numbers.append(version())
    RouteFallback.objects.filter(route=route).delete()
    numbers.append(version())
    assert numbers == sorted(set(numbers))


def test_a_deleted_route_leaves_the_lists_of_others():
    route, other = make_route(), make_route()
    make_fallback(route, other)
    other.delete()
    assert entry(route).fallbacks == ()


# The table


def test_the_table_has_the_settings_for_failures():
    route = make_route(
        max_attempts=4,
        attempt_timeout=9.5,
        first_byte_timeout=3,
        stall_timeout=0.05,
        hedge_after_ms=250,
        on_cut="hold",
    )
    make_target(route=route, provider=make_provider(continues="flag"))
    found = entry(route)
    assert (found.max_attempts, found.attempt_timeout, found.first_byte_timeout) == (4, 9.5, 3)
    assert (found.stall_timeout, found.hedge_after, found.on_cut) == (0.05, 0.25, "hold")
    assert found.targets[0].provider.continues == "flag"


def test_the_table_has_everything_off_by_default():
    route = make_route()
    make_target(route=route)
    found = entry(route)
    assert (found.max_attempts, found.attempt_timeout, found.first_byte_timeout) == (10, None, None)
    assert (found.stall_timeout, found.hedge_after, found.on_cut) == (None, None, "error")
    assert (found.fallbacks, found.context_fallbacks, found.policy_fallbacks) == ((), (), ())
    assert found.targets[0].provider.continues == ""


def test_the_table_has_each_list_in_its_order():
    route, first, second, third = (make_route() for _ in range(4))
    make_fallback(route, third, position=7)
    make_fallback(route, first, position=1)
    make_fallback(route, second, position=1)
    make_fallback(route, third, kind="context")
    make_fallback(route, second, kind="policy")
    make_fallback(first, route)
    found = entry(route)
    assert found.fallbacks == (first.pk, second.pk, third.pk)
    assert (found.context_fallbacks, found.policy_fallbacks) == ((third.pk,), (second.pk,))
    assert entry(first).fallbacks == (route.pk,)


def test_a_fallback_that_is_disabled_or_became_a_wildcard_is_left_out():
    route, disabled, wildcard = make_route(), make_route(enabled=False), make_route()
    make_fallback(route, disabled)
    make_fallback(route, wildcard)
    ModelRoute.objects.filter(pk=wildcard.pk).update(name="openai/*")
    assert entry(route).fallbacks == ()


@pytest.mark.parametrize("kind", ["error", "context", "policy"])
@pytest.mark.parametrize("owner", ["route", "target", "provider"])
def test_a_route_is_limited_where_a_fallback_is(owner, kind):
    route, unlimited, over = make_route(), make_route(), make_route(rpm=5 if owner == "route" else None)
    make_target(
        route=over,
        rpm=5 if owner == "target" else None,
        provider=make_provider(rpm=5 if owner == "provider" else None),
    )
    make_fallback(route, unlimited, kind=kind)
    assert not entry(route).limited
    link = make_fallback(route, over, kind=kind)
    assert entry(route).limited
    assert not entry(unlimited).limited
    ModelRoute.objects.filter(pk=over.pk).update(enabled=False)
    assert not entry(route).limited
    link.delete()


def test_a_table_takes_the_same_queries_for_any_number_of_fallbacks(django_assert_num_queries):
    routes = [make_route() for _ in range(6)]
    with CaptureQueriesContext(connection) as empty:
        compile_table()
    for route in routes:
        for other in routes:
            if other != route:
                make_fallback(route, other)
    with django_assert_num_queries(len(empty)):
        compile_table()


# The admin


def test_a_route_is_added_with_its_fallbacks(admin_client):
    cheap, large = make_route(name="cheap"), make_route(name="large")
    links = rows({"fallback": cheap.pk}, {"fallback": large.pk, "kind": "context", "position": "3"})
    settings = {
        "max_attempts": "5",
        "first_byte_timeout": "2.5",
        "hedge_after_ms": "300",
        "on_cut": "continue",
    }
    assert admin_client.post(ADD, form(**settings, **links)).status_code == 302
    route = ModelRoute.objects.get(name="gpt-4o")
    assert (route.max_attempts, route.first_byte_timeout, route.hedge_after_ms) == (5, 2.5, 300)
    assert (route.attempt_timeout, route.stall_timeout, route.on_cut) == (None, None, "continue")
    found = entry(route)
    assert (found.fallbacks, found.context_fallbacks) == ((cheap.pk,), (large.pk,))


def test_a_fallback_is_moved_and_deleted_on_the_routes_page(admin_client):
    route, first, second = make_route(name="gpt-4o"), make_route(), make_route()
    moved, deleted = make_fallback(route, first), make_fallback(route, second)
    links = rows(
        {"id": moved.pk, "route": route.pk, "fallback": first.pk, "kind": "policy", "position": "4"},
        {"id": deleted.pk, "route": route.pk, "fallback": second.pk, "DELETE": "on"},
        initial=2,
    )
    assert admin_client.post(change(route), form(**links)).status_code == 302
    assert list(route.fallback_links.values_list("fallback", "kind", "position")) == [(first.pk, "policy", 4)]


def test_the_routes_page_refuses_the_route_itself(admin_client):
    route = make_route(name="gpt-4o")
    answer = admin_client.post(change(route), form(**rows({"fallback": route.pk, "route": route.pk})))
    assert answer.status_code == 200
    assert "A route can&#x27;t be its own fallback." in answer.content.decode()
    assert not RouteFallback.objects.exists()


def test_the_routes_page_refuses_a_wildcard_and_a_twin(admin_client):
    wildcard, other = make_route(name="openai/*"), make_route()
    answer = admin_client.post(ADD, form(**rows({"fallback": wildcard.pk})))
    assert "Allowed is a route whose name has no *." in answer.content.decode()
    answer = admin_client.post(ADD, form(**rows({"fallback": other.pk}, {"fallback": other.pk})))
    assert "duplicate" in answer.content.decode()
    assert not RouteFallback.objects.exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_attempts", "51", "Max attempts: allowed are 1 to 50."),
        ("stall_timeout", "0.01", "Stall timeout: allowed are 0.05 to 3,600."),
        ("hedge_after_ms", "0", "Hedge after ms: allowed are 1 to 600,000."),
    ],
)
def test_a_refused_number_says_what_is_allowed(admin_client, field, value, message):
    answer = admin_client.post(ADD, form(**{field: value}))
    assert errors(answer)["__all__"] == [message]


def test_the_routes_page_explains_and_finds_fallbacks_by_name(admin_client):
    route, cheap = make_route(), make_route(name="cheap")
    make_fallback(route, cheap)
    page = admin_client.get(change(route)).content.decode()
    for text in ("When a provider fails", "all targets and fallbacks together", "No target answers"):
        assert text in page
    found = admin_client.get(
        reverse("admin:autocomplete"),
        {"app_label": "routing", "model_name": "routefallback", "field_name": "fallback", "term": "che"},
    )
    assert found.json()["results"] == [{"id": str(cheap.pk), "text": "cheap"}]


def test_the_delete_page_says_whose_fallback_the_route_is(admin_client):
    route, cheap = make_route(name="best"), make_route(name="cheap")
    make_fallback(route, cheap)
    url = reverse("admin:routing_modelroute_delete", args=[cheap.pk])
    assert "best → cheap (error)" in admin_client.get(url).content.decode()


def test_a_duplicate_has_the_settings_and_the_fallbacks_but_is_nobodys_fallback(admin_client):
    route, cheap = make_route(name="best", hedge_after_ms=90, on_cut="hold", max_attempts=3), make_route()
    make_fallback(route, cheap, kind="policy", position=6)
    make_fallback(cheap, route)
    run(admin_client, "duplicate", route)
    copy = ModelRoute.objects.get(name="best-copy")
    assert (copy.hedge_after_ms, copy.on_cut, copy.max_attempts) == (90, "hold", 3)
    links = list(copy.fallback_links.values_list("fallback", "kind", "position"))
    assert links == [(cheap.pk, "policy", 6)]
    assert route.fallback_links.count() == 1
    assert not copy.fallback_of.exists()


def test_the_providers_page_sets_whether_it_goes_on_with_an_answer(admin_client):
    provider = make_provider()
    data = provider_form(slug=provider.slug)
    page = admin_client.get(change(provider)).content.decode()
    assert "The same with &quot;prefix&quot;: true" in page
    assert admin_client.post(change(provider), {**data, "continues": "flag"}).status_code == 302
    assert Provider.objects.get().continues == "flag"
    assert admin_client.post(change(provider), {**data, "continues": ""}).status_code == 302
    assert Provider.objects.get().continues == ""
