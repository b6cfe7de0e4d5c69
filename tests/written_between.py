"""Compiles a table while another connection commits between any two of its queries."""

import threading
from collections.abc import Callable
from typing import Any

from django.db import connection, transaction

from routing.compiler import compile_table
from routing.models import ModelRoute, Provider
from routing.table import RoutingTable
from tests.factories import make_key, make_provider, make_route, make_target

MOST_WRITES = 30


def elsewhere(change: Callable[[], None]) -> None:
    """Commits on a connection of its own; returns when that is done."""

    def run() -> None:
        try:
            change()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "the writer is kept waiting"


def add_and_delete() -> None:
    """All of a route with its target, provider and key comes, or goes, at once."""
    with transaction.atomic():
        old = ModelRoute.objects.order_by("pk").first()
        if old is not None and ModelRoute.objects.count() > 3:
            providers = list(old.targets.values_list("provider", flat=True))
            old.delete()
            Provider.objects.filter(pk__in=providers).delete()
        target = make_target(route=make_route(), provider=make_provider())
        make_key(name=target.route.name, allowed_routes=[target.route])


def compiled_while_written() -> RoutingTable:
    """Fails where the table mixes two states."""
    writes = 0

    def between(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal writes
        found = execute(sql, params, many, context)
        if sql.startswith("SELECT") and writes < MOST_WRITES:
            writes += 1
            elsewhere(add_and_delete)
        return found

    with connection.execute_wrapper(between):
        table = compile_table()
    assert writes > 5, "each query is followed by a write"
    check(table)
    return table


def check(table: RoutingTable) -> None:
    routes = {found.route.id: found.route for found in table.routes.values()}
    for route in routes.values():
        assert [target.provider.slug in table.providers for target in route.targets] == [True], route.name
    allowed = [key.route_ids for key in table.keys.values() if key.route_ids is not None]
    reachable = [ids for ids in allowed if ids & routes.keys()]
    assert len(reachable) == len(routes), "each route with its key"


def main() -> None:
    for _ in range(4):
        elsewhere(add_and_delete)
    compiled_while_written()
    print("one state")
