"""What stands in the table for rows that can't be compiled, so that requests learn that they are out.

Without them a name would be unknown, or another route's wildcard would take it.
"""

from dataclasses import replace
from typing import Any

from routing import strategies
from routing.table import Connection, ProviderEntry, RouteEntry, TargetEntry, rank_of

_NO_CONNECTION = Connection(
    connect_timeout=1, read_timeout=1, max_connections=1, queue_timeout=0, keep_alive=0, max_queue=0
)


def provider(id: int, slug: str, reason: str) -> ProviderEntry:
    return ProviderEntry(
        id=id,
        slug=slug,
        dialect="openai",
        base_url="",
        credential="",
        connection=_NO_CONNECTION,
        retries=0,
        retry_delay=0,
        allow_caller_key=True,  # it is out, which is no matter of whose key it is
        unhealthy=True,
        refuse_when_unhealthy=True,
        fault=reason,
    )


def target(id: int, provider: ProviderEntry, upstream_model: str, reason: str) -> TargetEntry:
    """Of a provider that is out for this target only."""
    return TargetEntry(
        id=id,
        provider=replace(
            provider,
            unhealthy=True,
            refuse_when_unhealthy=True,
            maintenance=False,
            fault=provider.fault or reason,
        ),
        upstream_model=upstream_model,
        weight=1,
        priority=0,
        rank=rank_of(0, 1),
        price=None,
    )


def route(id: int, name: str, reason: str) -> RouteEntry:
    return RouteEntry(
        id=id,
        name=name,
        strategy=strategies.DEFAULT,
        deadline=60,
        max_messages=None,
        default_parameters=(),
        answer_tokens=0,
        limits_answers=False,
        limit_owners=(),
        over_limit_route=None,
        targets=(),
        created=0,
        fault=reason,
    )


def names(aliases: Any) -> tuple[str, ...]:
    """As many as there are."""
    given = aliases if isinstance(aliases, list) else []
    return tuple(alias for alias in given if isinstance(alias, str))
