"""Admin users and groups look like the rest of the admin."""

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.urls import reverse
from unfold.admin import ModelAdmin


@pytest.mark.parametrize("model", [User, Group])
def test_the_admin_of_users_and_groups_has_the_theme(admin_client, model):
    assert admin_client.get(reverse(f"admin:auth_{model._meta.model_name}_changelist")).status_code == 200
    assert isinstance(admin.site._registry[model], ModelAdmin)


def test_a_user_is_added_with_a_hashed_password(admin_client):
    values = {
        "username": "ada",
        "usable_password": "true",
        "password1": "lovelace-1815",
        "password2": "lovelace-1815",
    }
    assert admin_client.post(reverse("admin:auth_user_add"), values).status_code == 302
    ada = User.objects.get(username="ada")
    assert ada.check_password("lovelace-1815")
    for url in ("admin:auth_user_change", "admin:auth_user_password_change"):
        assert admin_client.get(reverse(url, args=[ada.pk])).status_code == 200


def test_every_page_carries_the_products_name(admin_client):
    page = admin_client.get(reverse("admin:index")).content.decode()
    assert "Switchstand" in page
