"""`manage.py check --database default`: alert channels that the gateway will not connect to."""

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Tags, Warning, register
from django.db import DatabaseError

from monitoring.alerts.models import AlertChannel
from routing.addresses import for_channels
from routing.checks import refused
from routing.credentials import CredentialUnreadable


@register(Tags.database)
def channels_are_reachable(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    if not databases:
        return []
    hint = (
        "Its messages are not sent. CHANNEL_NETWORKS lists the addresses that are not public and may be used."
    )
    try:
        found = refused(_posted_to(), for_channels())
    except DatabaseError:  # no table yet
        return []
    return [Warning(f"Alert channel {name}: {why}.", hint=hint, id="monitoring.W001") for name, why in found]


def _posted_to() -> list[tuple[str, str]]:
    named = []
    for channel in AlertChannel.objects.filter(enabled=True).exclude(kind=AlertChannel.Kind.EMAIL):
        try:
            named.append((channel.name, channel.target))
        except CredentialUnreadable:
            continue  # it fails anyhow, and its delivery log says so
    return named
