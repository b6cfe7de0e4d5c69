"""Every page of the admin opens: each list, each form, with and without a row."""

from typing import Any

import pytest
from django.contrib import admin
from django.db.models import Model
from django.urls import reverse

from tests.factories import make_key, make_provider, make_route, make_target, make_team
from tests.test_admin_request_log import make_row

MODELS = sorted(admin.site._registry, key=lambda model: model._meta.label)


def url(model: type[Model], page: str, *arguments: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=arguments)


@pytest.fixture
def rows(db: None) -> None:
    route, provider = make_route(aliases=["best"]), make_provider(api_key="sk-something")
    make_target(route=route, provider=provider)
    make_key(team=make_team(), allowed_routes=[route])
    make_row()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label)
def test_every_page_opens(admin_client: Any, rows: None, model: type[Model]) -> None:
    opened = {"changelist": admin_client.get(url(model, "changelist"), follow=True).status_code}
    opened["add"] = admin_client.get(url(model, "add"), follow=True).status_code
    row = model._default_manager.first()
    for page in ("change", "history", "delete") if row is not None else ():
        opened[page] = admin_client.get(url(model, page, row.pk), follow=True).status_code
    # 403 is an answer too: of a log that nobody may add to or delete from.
    assert set(opened.values()) <= {200, 403}, opened
    assert opened["changelist"] == 200
    assert opened.get("change", 200) == 200
