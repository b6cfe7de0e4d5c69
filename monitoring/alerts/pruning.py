"""How long alerts and what was told are kept."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Model, QuerySet

from monitoring.alerts.models import Alert, AlertDelivery

DELETE_ROWS = 1000  # at once, so that no lock is held for long


def prune(now: datetime) -> int:
    """Delete what ended before ALERT_HISTORY_DAYS; what lasts and what is still to be told stays."""
    oldest = now - timedelta(days=settings.ALERT_HISTORY_DAYS)
    told = AlertDelivery.objects.filter(created_at__lt=oldest).exclude(status=AlertDelivery.Status.PENDING)
    over = Alert.objects.filter(ended_at__lt=oldest).exclude(deliveries__status=AlertDelivery.Status.PENDING)
    return _delete(told) + _delete(over)


def _delete(rows: QuerySet[Model]) -> int:
    deleted = 0
    while ids := list(rows.order_by("pk").values_list("pk", flat=True)[:DELETE_ROWS]):
        deleted += len(ids)
        rows.model._default_manager.filter(pk__in=ids).delete()
    return deleted
