"""Periodic work; no logic here."""

from datetime import timedelta
from typing import Any

from celery import shared_task
from celery.signals import worker_ready
from django.conf import settings
from django.utils import timezone

from monitoring.alerts import pruning
from monitoring.alerts import running as alerts
from monitoring.background import heartbeats
from monitoring.background.one_at_a_time import OneAtATime
from monitoring.budgets import periods
from monitoring.health import history, running, traffic
from monitoring.incidents import incidents
from monitoring.pricing import repricing
from monitoring.reports import sending
from monitoring.retention import partitions, retention
from monitoring.usage import rollups


@worker_ready.connect
def worker_is_alive(**_: Any) -> None:
    heartbeats.beat_for_ever(heartbeats.WORKER)


@shared_task(base=OneAtATime)
def probe_providers() -> None:
    now = timezone.now()
    running.tick(now, timedelta(seconds=settings.PROBE_TICK_SECONDS))
    heartbeats.beat(heartbeats.TICKS, now)


@shared_task(base=OneAtATime)
def judge_traffic() -> None:
    now = timezone.now()
    traffic.judge(now)
    incidents.end_left(now)


@shared_task(base=OneAtATime)
def prune_health_history() -> None:
    now = timezone.now()
    history.prune(now)
    pruning.prune(now)
    incidents.prune(now)


@shared_task(base=OneAtATime)
def look_for_alerts() -> None:
    alerts.tick()


@shared_task(base=OneAtATime)
def reprice_requests() -> None:
    repricing.run_all()


@shared_task(base=OneAtATime)
def roll_up_usage() -> None:
    rollups.roll_up()


@shared_task(base=OneAtATime)
def keep_request_log() -> None:
    now = timezone.now()
    partitions.make_ahead(now.date())
    retention.prune_content(now)
    retention.prune_log(now)
    periods.recount_closed(now)


@shared_task(base=OneAtATime)
def send_reports() -> None:
    sending.tick(timezone.now())


@shared_task(base=OneAtATime)
def update_budgets() -> None:
    periods.refresh(timezone.now())
