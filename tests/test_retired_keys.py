"""What once was a gateway key is never taken for a provider's: it authenticates nobody and goes nowhere."""

import io

import pytest
from django.core.management import call_command
from django.urls import reverse

from routing import gateway_keys
from routing.models import ApiKey
from tests.factories import make_key, make_provider, make_route, make_target


@pytest.fixture
def zai(upstream, published):
    """A working key; the route's provider takes callers' own keys."""
    provider = make_provider(slug="z-ai", base_url=upstream.url("z"), allow_caller_key=True)
    make_target(route=make_route(name="glm"), provider=provider)
    _, key = make_key(name="works")
    published()
    return key


def refused_at_home(door, upstream, key, own):
    """Beside a working key and alone."""
    for headers in ({"x-litellm-api-key": own}, {"x-litellm-api-key": f"Bearer {own}"}):
        for beside in (key, None):
            answer = door.chat(beside, "glm", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert own not in answer.text
    assert upstream.calls("z") == []


def deleted(key, admin):
    key.delete()


def deleted_by_query(key, admin):
    ApiKey.objects.filter(pk=key.pk).delete()


def regenerated_in_the_admin(key, admin):
    changelist = reverse("admin:routing_apikey_changelist")
    asked = admin.post(changelist, {"action": "regenerate_selected", "_selected_action": [key.pk]})
    state = asked.context["keys"][0][1]
    form = {"action": "regenerate_selected", "_selected_action": [key.pk], "confirmed": "1", "state": state}
    assert admin.post(changelist, form).status_code == 200


def given_another_value(key, admin):
    key.set_plaintext("another-value-of-the-key")
    key.save()


def changed_by_query(key, admin):
    ApiKey.objects.filter(pk=key.pk).update(key_hash=gateway_keys.digest("another-of-them").hex())


WAYS = [deleted, deleted_by_query, regenerated_in_the_admin, given_another_value, changed_by_query]


@pytest.mark.parametrize("end", WAYS, ids=lambda way: way.__name__)
def test_a_key_that_was_replaced_or_deleted_never_leaves(door, upstream, published, zai, admin_client, end):
    key, plaintext = make_key(plaintext="one-that-an-app-still-holds")
    published()
    assert door.chat(None, "glm", headers={"x-litellm-api-key": plaintext}).status_code == 200
    upstream.clear()
    end(key, admin_client)
    published()
    refused_at_home(door, upstream, zai, plaintext)


def test_whatever_has_the_shape_of_our_keys_never_leaves(door, upstream, zai):
    refused_at_home(door, upstream, zai, gateway_keys.generate())


def test_a_key_that_comes_back_opens_again(door, upstream, published, zai):
    key, plaintext = make_key(plaintext="one-that-an-app-still-holds")
    key.delete()
    make_key(plaintext=plaintext, name="again")
    published()
    assert door.chat(None, "glm", headers={"x-litellm-api-key": f"Bearer {plaintext}"}).status_code == 200


def test_a_callers_own_key_goes_on_as_before(door, upstream, zai):
    for value in ("sk-proj-callers-own", "Bearer sk-proj-callers-own"):
        assert door.chat(zai, "glm", headers={"x-litellm-api-key": value}).status_code == 200
    sent = [call.headers["authorization"] for call in upstream.calls("z")]
    assert sent == ["Bearer sk-proj-callers-own"] * 2


@pytest.mark.django_db
def test_new_keys_have_a_prefix_of_their_own():
    call_command("create_key", "app", stdout=(out := io.StringIO()))
    assert out.getvalue().splitlines()[-1].startswith("sk-sw-")
    assert ApiKey.objects.get().prefix.startswith("sk-sw-")
