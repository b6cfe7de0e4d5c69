"""Periodic work; no logic here."""

from celery import shared_task
from django.utils import timezone

from monitoring import probing


@shared_task(ignore_result=True)
def probe_providers() -> None:
    probing.probe_due(now=timezone.now())
