"""Rows for tests: each factory takes what the test is about and defaults the rest."""

import itertools
from typing import Any

from routing import gateway_keys
from routing.models import ApiKey, ModelRoute, Provider, RouteFallback, RouteTarget, Team

_numbers = itertools.count(1)


def make_provider(**values: Any) -> Provider:
    """`api_key` is the plaintext credential; it is stored encrypted."""
    slug = values.setdefault("slug", f"provider-{next(_numbers)}")
    values.setdefault("name", slug.replace("-", " ").title())
    values.setdefault("base_url", "http://127.0.0.1:9/v1")
    return Provider.objects.create(**values)


def make_route(**values: Any) -> ModelRoute:
    values.setdefault("name", f"model-{next(_numbers)}")
    return ModelRoute.objects.create(**values)


def make_target(**values: Any) -> RouteTarget:
    values.setdefault("route", None)
    values.setdefault("provider", None)
    values["route"] = values["route"] or make_route()
    values["provider"] = values["provider"] or make_provider()
    values.setdefault("upstream_model", f"upstream-{next(_numbers)}")
    return RouteTarget.objects.create(**values)


def make_fallback(route: ModelRoute, fallback: ModelRoute, **values: Any) -> RouteFallback:
    return RouteFallback.objects.create(route=route, fallback=fallback, **values)


def make_team(**values: Any) -> Team:
    slug = values.setdefault("slug", f"team-{next(_numbers)}")
    values.setdefault("name", slug.replace("-", " ").title())
    return Team.objects.create(**values)


def make_key(*, plaintext: str = "", allowed_routes: Any = (), **values: Any) -> tuple[ApiKey, str]:
    """The row and its plaintext, which the row itself does not hold."""
    plaintext = plaintext or gateway_keys.generate()
    values.setdefault("name", f"key-{next(_numbers)}")
    key = ApiKey(**values)
    key.set_plaintext(plaintext)
    key.save()
    key.allowed_routes.set(allowed_routes)
    return key, plaintext
