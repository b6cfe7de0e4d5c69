"""Sends what is due. A claim by conditional update keeps two workers from sending the same."""

import logging
from datetime import date, datetime, timedelta

from django.utils import timezone

from monitoring.alerts.channels import FILE_KINDS, FILE_SECONDS
from monitoring.alerts.delivering import FIRST_PAUSE, MOST_ATTEMPTS
from monitoring.alerts.message import ChannelFailed
from monitoring.reports.due import enqueue
from monitoring.reports.making import made
from monitoring.reports.models import ReportDelivery, ScheduledReport
from routing.credentials import CredentialUnreadable

logger = logging.getLogger(__name__)
Status = ReportDelivery.Status


def tick(now: datetime) -> int:
    """How many were sent, or tried."""
    enqueue(now)
    tried = 0
    while (delivery := _claim(now)) is not None:
        send(delivery)
        tried += 1
    return tried


def _claim(now: datetime) -> ReportDelivery | None:
    """The oldest that is due, held for its time: a process that dies while sending loses nothing."""
    due = ReportDelivery.objects.filter(status=Status.PENDING, next_try_at__lte=now, channel__enabled=True)
    for found in due.select_related("channel", "report").order_by("created_at", "pk"):
        pause = timedelta(seconds=FILE_SECONDS + FIRST_PAUSE * 2**found.attempts)
        mine = ReportDelivery.objects.filter(pk=found.pk, status=Status.PENDING, attempts=found.attempts)
        if mine.update(attempts=found.attempts + 1, next_try_at=now + pause):
            found.attempts += 1
            return found
    return None


def send(delivery: ReportDelivery) -> str:
    """One try; returns what went wrong, empty where it was taken."""
    channel, problem = delivery.channel, ""
    try:
        send_file = FILE_KINDS.get(channel.kind)
        if send_file is None:
            raise ChannelFailed(f"{channel.get_kind_display()} takes no files")
        with made(delivery) as file:
            send_file(channel.target, channel.secret, file, FILE_SECONDS)
    except (ChannelFailed, CredentialUnreadable) as error:
        problem = str(error)[:300]
        logger.warning("report %s not delivered to %s: %s", delivery, channel.name, problem)
    except Exception as error:
        # The next report may go through: nothing that one of them holds may end the task.
        problem = f"{type(error).__name__}: not sent; the gateway's log says why"
        logger.exception("report %s not delivered to %s", delivery, channel.name)
    values: dict[str, object] = {"status": Status.SENT, "sent_at": timezone.now()}
    if problem:
        given_up = delivery.by_hand or delivery.attempts >= MOST_ATTEMPTS
        values = {"status": Status.FAILED if given_up else Status.PENDING}
    ReportDelivery.objects.filter(pk=delivery.pk).update(last_error=problem, **values)
    return problem


def send_now(report: ScheduledReport, first: date, last: date) -> list[str]:
    """To each of its channels, one try; returns what went wrong."""
    problems = []
    for channel in report.channels.for_reports().filter(enabled=True):
        delivery = ReportDelivery.objects.create(
            report=report,
            channel=channel,
            first=first,
            last=last,
            by_hand=True,
            attempts=1,
            status=Status.FAILED,  # until it is sent, so that no other process takes it
        )
        if problem := send(delivery):
            problems.append(f"{channel.name}: {problem}")
    return problems
