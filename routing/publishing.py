"""Tells every worker that the routing table must be compiled anew.

The version row is raised in the same transaction as the change, so no worker can see the one
without the other.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from django.db import models
from django.db.models.signals import m2m_changed, post_delete, post_save

Row = TypeVar("Row", bound=models.Model)


def publish_change() -> None:
    """Change the version; workers compile the new table within a second of the commit.

    The number is the time in microseconds, not a counter: after a restore from a backup a counter
    would come by numbers that a running worker has seen with other content.
    """
    from routing.models import RoutingVersion

    if not _by_the_caller.get():
        RoutingVersion.objects.update_or_create(pk=1, defaults={"number": time.time_ns() // 1000})


_by_the_caller = ContextVar("published by the caller", default=False)


@contextmanager
def publishing_later() -> Iterator[None]:
    """Changes within tell nobody: the caller publishes them all at once, in the same transaction."""
    token = _by_the_caller.set(True)
    try:
        yield
    finally:
        _by_the_caller.reset(token)


def publish_recount() -> None:
    """Workers read what budgets have spent from the log again: costs of rows were corrected."""
    from routing.models import RoutingVersion

    now = time.time_ns() // 1000
    RoutingVersion.objects.update_or_create(pk=1, defaults={"number": now, "recounted": now})


class RoutingQuerySet(models.QuerySet[Row]):
    """Bulk writes send no signals, so they publish here."""

    def update(self, **values: Any) -> int:
        changed = super().update(**values)
        if changed:
            publish_change()
        return changed

    def bulk_create(self, *args: Any, **options: Any) -> list[Row]:
        created = super().bulk_create(*args, **options)
        publish_change()
        return created

    def update_quietly(self, **values: Any) -> int:
        """For columns that no table holds, such as last_used_at."""
        return super().update(**values)


def connect() -> None:
    from routing import models as routing_models

    published = (
        routing_models.ApiKey,
        routing_models.GatewaySettings,
        routing_models.MaintenanceWindow,
        routing_models.ModelRoute,
        routing_models.Provider,
        routing_models.RouteFallback,
        routing_models.RouteTarget,
        routing_models.Team,
    )
    for model in published:
        post_save.connect(_changed, sender=model)
        post_delete.connect(_changed, sender=model)
    m2m_changed.connect(_routes_chosen, sender=routing_models.ApiKey.allowed_routes.through)


def _changed(**_: Any) -> None:
    publish_change()


def _routes_chosen(action: str, instance: Any, reverse: bool, pk_set: set[int] | None, **_: Any) -> None:
    """Keep ApiKey.restricted true to the admin's choice.

    Deleting a route sends no m2m_changed: a key whose only route is deleted may then use none,
    where "none chosen" would have opened all routes to it.
    """
    from routing.models import ApiKey

    if not action.startswith("post_"):
        return
    keys = pk_set or set() if reverse else {instance.pk}
    for key in ApiKey.objects.filter(pk__in=keys):
        ApiKey.objects.filter(pk=key.pk).update_quietly(restricted=key.allowed_routes.exists())
    publish_change()
