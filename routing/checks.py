"""`manage.py check --database default`: stored addresses that the gateway will not connect to, prices that
a budget needs."""

import socket
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from django.core.checks import CheckMessage, Tags, Warning, register
from django.db import DatabaseError

from routing.addresses import AddressRefused, Rules, for_providers, port_of
from routing.models import Provider

RESOLVE_SECONDS = 3.0  # for all names together
MOST_LOOKED_AT = 500  # a thread each


@register(Tags.database)
def providers_are_reachable(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    if not databases:
        return []
    try:
        rows = list(Provider.objects.enabled().values_list("slug", "base_url"))
    except DatabaseError:  # no table yet
        return []
    hint = "Its requests fail. PROVIDER_NETWORKS lists the addresses that are not public and may be used."
    found = refused(rows, for_providers())
    return [Warning(f"Provider {name}: {why}.", hint=hint, id="routing.W001") for name, why in found]


@register(Tags.database)
def budgets_know_prices(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    from routing import unpriced

    if not databases:
        return []
    try:
        found = list(unpriced.clashes())
    except DatabaseError:  # no table yet
        return []
    return [Warning(str(clash), hint=unpriced.REMEDY, id="routing.W002") for clash in found]


def refused(named: Sequence[tuple[str, str]], rules: Rules) -> list[tuple[str, str]]:
    """(name, why) of those of the (name, URL) that are not connected to, as far as resolvers tell in time."""
    found: dict[str, str] = {}

    def look(name: str, url: str) -> None:
        if why := _problem(url, rules):
            found[name] = why

    threads = [threading.Thread(target=look, args=one, daemon=True) for one in named[:MOST_LOOKED_AT]]
    deadline = time.monotonic() + RESOLVE_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    return [(name, found[name]) for name, _ in named if name in found]


def _problem(url: str, rules: Rules) -> str:
    try:
        rules.check_url(url)
        parts = urlsplit(url)
        return _worst(_addresses(parts.hostname or "", port_of(parts)), port_of(parts), rules)
    except AddressRefused as why:
        return str(why)
    except ValueError:
        return "its address is no URL"


def _addresses(host: str, port: int) -> set[str]:
    try:
        return {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return set()  # unknown today: nothing can be said


def _worst(addresses: Iterable[str], port: int, rules: Rules) -> str:
    """Why none of them is left; empty where one is."""
    why = ""
    for address in addresses:
        try:
            rules.check(address, port)
        except AddressRefused as problem:
            why = str(problem)
        else:
            return ""
    return why
