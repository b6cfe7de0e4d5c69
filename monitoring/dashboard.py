"""The admin's first page: what does not work now comes first."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest

from monitoring.budget_admin import add_budgets
from monitoring.models import Alert
from routing import notices


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Called by the admin's index."""
    for text in notices.current():
        messages.warning(request, text)
    if request.user.has_perm("monitoring.view_alert"):
        for alert in Alert.objects.filter(ended_at=None).exclude(rule__kind="stalled")[:5]:
            messages.error(request, f"{alert.summary} (since {alert.started_at:%Y-%m-%d %H:%M} UTC)")
    return add_budgets(request, context)
