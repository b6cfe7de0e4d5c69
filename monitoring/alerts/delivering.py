"""Sends what is due, each channel in a thread of its own: one that hangs holds up only itself."""

import logging
import threading
from datetime import datetime, timedelta

from django.db import close_old_connections, connection
from django.utils import timezone

from monitoring.alerts.channels import KINDS, SECONDS
from monitoring.alerts.message import ChannelFailed, Message
from monitoring.alerts.models import AlertChannel, AlertDelivery
from routing.credentials import CredentialUnreadable

logger = logging.getLogger(__name__)

TEST = "test"  # the event of what an admin sends to try a channel
MOST_ATTEMPTS = 8
FIRST_PAUSE = 15  # seconds; doubles with each attempt: the last one is half an hour after the first

Status = AlertDelivery.Status


class _Sending:
    channels: set[int] = set()  # that have a thread now
    turn = threading.Lock()


def deliver(now: datetime) -> list[threading.Thread]:
    """Start a thread for each channel with something due, unless it has one; waits for none."""
    due = AlertDelivery.objects.filter(status=Status.PENDING, next_try_at__lte=now, channel__enabled=True)
    started = []
    for channel_id in set(due.values_list("channel", flat=True)):
        with _Sending.turn:
            if channel_id in _Sending.channels:
                continue
            _Sending.channels.add(channel_id)
        thread = threading.Thread(target=_send_all, args=(channel_id,), name="alert-channel", daemon=True)
        thread.start()
        started.append(thread)
    return started


def _send_all(channel_id: int) -> None:
    close_old_connections()
    try:
        while (delivery := _claim(channel_id, timezone.now())) is not None:
            send(delivery)
    except Exception:
        logger.exception("alert channel %d failed", channel_id)
    finally:
        with _Sending.turn:
            _Sending.channels.discard(channel_id)
        connection.close()


def _claim(channel_id: int, now: datetime) -> AlertDelivery | None:
    """The oldest that is due, held for its time: a process that dies while sending loses nothing."""
    due = AlertDelivery.objects.filter(channel=channel_id, status=Status.PENDING, next_try_at__lte=now)
    for found in due.select_related("channel", "alert__rule").order_by("created_at", "pk"):
        pause = timedelta(seconds=SECONDS + FIRST_PAUSE * 2**found.attempts)
        mine = AlertDelivery.objects.filter(pk=found.pk, status=Status.PENDING, attempts=found.attempts)
        if mine.update(attempts=found.attempts + 1, next_try_at=now + pause):
            found.attempts += 1
            return found
    return None


def send(delivery: AlertDelivery) -> str:
    """One try; returns what went wrong, empty where it was taken."""
    channel, problem = delivery.channel, ""
    try:
        KINDS[channel.kind](channel.target, channel.secret, _message(delivery), SECONDS)
    except (ChannelFailed, CredentialUnreadable) as error:
        problem = str(error)[:300]
        logger.warning("alert not delivered to %s: %s", channel.name, problem)
    except Exception as error:
        # The next message may go through: nothing that one of them holds may end the thread.
        problem = f"{type(error).__name__}: not sent; the gateway's log says why"
        logger.exception("alert not delivered to %s", channel.name)
    status = Status.SENT
    if problem:
        given_up = delivery.event == TEST or delivery.attempts >= MOST_ATTEMPTS
        status = Status.FAILED if given_up else Status.PENDING
    AlertDelivery.objects.filter(pk=delivery.pk).update(status=status, last_error=problem)
    return problem


def _message(delivery: AlertDelivery) -> Message:
    alert = delivery.alert
    return Message(
        id=str(delivery.pk),
        event=delivery.event,
        rule=alert.rule.kind if alert else "test",
        subject=alert.subject if alert else "",
        summary=delivery.summary,
        started_at=(alert.started_at if alert else delivery.created_at).isoformat(timespec="seconds"),
        evidence=alert.evidence if alert else {},
    )


def send_test(channel: AlertChannel) -> str:
    """At once, one try; returns what went wrong, empty where it was taken."""
    delivery = AlertDelivery.objects.create(
        channel=channel,
        event=TEST,
        summary="A test of this channel: nothing is wrong.",
        attempts=1,
        status=Status.FAILED,  # until it is sent, so that no other thread takes it
    )
    return send(delivery)
