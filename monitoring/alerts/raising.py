"""Turns what rules find into alerts: one while it lasts, reminders, one end."""

import logging
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q

from monitoring.alerts.models import Alert, AlertChannel, AlertDelivery, AlertRule
from monitoring.alerts.rules import EVERY, ONCE, REMINDERS, RULES, STEPS, THRESHOLDS, Finding
from monitoring.background.turns import is_locked
from monitoring.incidents import incidents

logger = logging.getLogger(__name__)


def evaluate(now: datetime) -> None:
    """All rules that are due. A rule that fails is logged, and keeps no other from being looked at."""
    for rule in _rules():
        due = Q(evaluated_at=None) | Q(evaluated_at__lte=now - timedelta(seconds=EVERY[rule.kind]))
        # The claim: of all processes that come here, one goes on.
        if AlertRule.objects.filter(due, pk=rule.pk).update(evaluated_at=now):
            try:
                _look(rule, now)
            except Exception as error:
                if is_locked(error):
                    raise
                logger.exception("alert rule %s failed", rule.kind)


def _rules() -> list[AlertRule]:
    """One of each kind; what is missing is made with its defaults."""
    rules = list(AlertRule.objects.all())
    missing = RULES.keys() - {rule.kind for rule in rules}
    if missing:
        AlertRule.objects.bulk_create(map(_first, sorted(missing)), ignore_conflicts=True)
        rules = list(AlertRule.objects.all())
    return rules


def _first(kind: str) -> AlertRule:
    rule = AlertRule(kind=kind, threshold=THRESHOLDS.get(kind, 0.0), steps=STEPS.get(kind, ""))
    rule.remind_minutes = REMINDERS.get(kind, rule.remind_minutes)
    return rule


def _look(rule: AlertRule, now: datetime) -> None:
    findings = {}
    if rule.enabled:
        findings = {finding.subject: finding for finding in RULES[rule.kind](now, rule)}
    opened = {alert.subject: alert for alert in Alert.objects.filter(rule=rule, ended_at=None)}
    for subject, finding in findings.items():
        if subject not in opened:
            _begin(rule, finding, now)
        else:
            _remind(rule, opened[subject], now)
    for subject, alert in opened.items():
        if subject not in findings:
            _end(rule, alert, now)


@transaction.atomic  # the alert and what is told of it, or neither
def _begin(rule: AlertRule, finding: Finding, now: datetime) -> None:
    if rule.kind in ONCE and Alert.objects.filter(rule=rule, subject=finding.subject).exists():
        return
    alert, is_new = Alert.objects.get_or_create(
        rule=rule,
        subject=finding.subject,
        ended_at=None,
        defaults={
            "summary": finding.summary,
            "evidence": finding.evidence,
            "started_at": now,
            "told_at": now,
        },
    )
    if is_new:
        incidents.alert_turned(rule.kind, alert.pk, now, over=False)
    if is_new and not finding.quiet:
        _tell(rule, alert, "fired", now)


@transaction.atomic
def _remind(rule: AlertRule, alert: Alert, now: datetime) -> None:
    if not rule.remind_minutes or alert.acknowledged_at is not None:
        return
    due = Alert.objects.filter(
        pk=alert.pk, acknowledged_at=None, told_at__lte=now - timedelta(minutes=rule.remind_minutes)
    )
    if due.update(told_at=now):
        _tell(rule, alert, "reminder", now)


@transaction.atomic
def _end(rule: AlertRule, alert: Alert, now: datetime) -> None:
    if not Alert.objects.filter(pk=alert.pk, ended_at=None).update(ended_at=now):
        return
    incidents.alert_turned(rule.kind, alert.pk, now, over=True)
    if rule.kind not in ONCE:
        _tell(rule, alert, "resolved", now)


def _tell(rule: AlertRule, alert: Alert, event: str, now: datetime) -> None:
    chosen = list(rule.channels.for_alerts()) or list(AlertChannel.objects.for_alerts())
    for channel in chosen:
        if channel.enabled:
            AlertDelivery.objects.create(
                channel=channel,
                alert=alert,
                event=event,
                summary=alert.summary,
                created_at=now,
                next_try_at=now,
            )
