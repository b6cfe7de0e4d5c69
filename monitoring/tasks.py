"""Periodic work; no logic here."""

from celery import shared_task
from django.utils import timezone

from monitoring import probing, rollups


@shared_task(ignore_result=True)
def probe_providers() -> None:
    probing.probe_due(now=timezone.now())


@shared_task(ignore_result=True)
def roll_up_usage() -> None:
    rollups.roll_up()
