"""The admin's first page: what does not work now comes first."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest
from django.utils.html import format_html

from monitoring.alerts.models import Alert
from monitoring.budgets.admin import add_budgets
from routing import notices
from routing.admin.base import list_url
from routing.models import InactiveGuard

_SHOWN_GUARDS = 5


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Called by the admin's index."""
    for text in notices.current():
        messages.warning(request, text)
    if request.user.has_perm("monitoring.view_alert"):
        for alert in Alert.objects.filter(ended_at=None).exclude(rule__kind="stalled")[:5]:
            messages.error(request, f"{alert.summary} (since {alert.started_at:%Y-%m-%d %H:%M} UTC)")
    if request.user.has_perm("routing.view_inactiveguard"):
        _show_inactive_guards(request)
    return add_budgets(request, context)


def _show_inactive_guards(request: HttpRequest) -> None:
    """What a configuration file asks for and nothing here does, until somebody acknowledges it."""
    guards = InactiveGuard.objects.filter(acknowledged_at=None)
    if names := ", ".join(str(guard) for guard in guards[:_SHOWN_GUARDS]):
        count = guards.count()
        text = f"{names}{f' and {count - _SHOWN_GUARDS} more' if count > _SHOWN_GUARDS else ''}"
        url = list_url("routing_inactiveguard", state="open")
        said = "A configuration file asks for what is not active here, and requests pass without it: {}. "
        messages.warning(request, format_html(said + '<a href="{}">Acknowledge it</a>.', text, url))
