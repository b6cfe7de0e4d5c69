"""Periodic work; no logic here."""

from datetime import timedelta

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from monitoring.checks import history, running


@shared_task(ignore_result=True)
def probe_providers() -> None:
    running.tick(timezone.now(), timedelta(seconds=settings.PROBE_TICK_SECONDS))


@shared_task(ignore_result=True)
def prune_health_history() -> None:
    history.prune(timezone.now())
