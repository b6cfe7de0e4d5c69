"""Passive health: what live traffic says of each target joins what checks say of its provider.

It makes a provider degraded, never unhealthy: the circuit breaker already takes single targets out,
and a provider without traffic could never be seen to be well again.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from monitoring.health.models import HealthTransition, TrafficFault
from monitoring.request_log.models import RequestLog
from proxy.errors import (
    UpstreamAuthFailed,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnpaid,
)
from routing.models import Provider, ProviderHealth

logger = logging.getLogger(__name__)

WINDOW = timedelta(seconds=60)
MOST_ROWS = 5000  # the newest of them: enough to judge by
LEAST_ATTEMPTS = 5
FAILED_SHARE = 0.5
HOLD = timedelta(minutes=10)  # without any traffic, after which a fault is forgotten
SAMPLES = 5

_ACCOUNT_FAULTS = {UpstreamAuthFailed.code, UpstreamUnpaid.code}
"""No traffic mends these: one is enough where nothing else was answered."""
_FAULTS = {kind.code for kind in (UpstreamError, UpstreamTimeout, UpstreamRateLimited)} | _ACCOUNT_FAULTS
Status = ProviderHealth.Status


@dataclass(slots=True)
class Seen:
    """Attempts at one target in the window."""

    provider: str
    model: str
    attempts: int = 0
    failures: int = 0
    account_faults: int = 0  # part of the failures
    ms: float = 0.0
    detail: str = ""  # of the newest failure
    request_ids: list[str] = field(default_factory=list)

    @property
    def fails(self) -> bool:
        if self.account_faults and self.failures == self.attempts:
            return True
        return self.attempts >= LEAST_ATTEMPTS and self.failures >= FAILED_SHARE * self.attempts

    def take(self, request_id: str, entry: dict[str, Any]) -> None:
        result = str(entry["result"])
        answered = result[:1].isdigit()
        cut = ", then: " in result
        failed = cut or result.partition(":")[0] in _FAULTS
        if not answered and not failed:
            return  # the caller's fault, or nobody's: cancelled, left out
        self.attempts += 1
        self.ms += float(entry.get("ms", 0.0))
        if failed:
            self.failures += 1
            self.account_faults += result.partition(":")[0] in _ACCOUNT_FAULTS
            self.detail = self.detail or result
            if len(self.request_ids) < SAMPLES:
                self.request_ids.append(request_id)

    def shown(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "attempts": self.attempts,
            "failures": self.failures,
            "mean_ms": round(self.ms / self.attempts, 1),
            "detail": self.detail,
            "request_ids": self.request_ids,
        }


def seen(now: datetime, provider: str = "") -> list[Seen]:
    """By target, from the newest requests of the window."""
    rows = RequestLog.objects.filter(received_at__gt=now - WINDOW, received_at__lte=now, attempts__gt=0)
    found: dict[Any, Seen] = {}
    trails = rows.order_by("-received_at").values_list("request_id", "attempt_trail")[:MOST_ROWS]
    for request_id, trail in trails:
        for entry in trail:
            if not provider or entry["provider"] == provider:
                key = entry["target"], entry["model"]
                of_target = found.setdefault(key, Seen(entry["provider"], entry["model"]))
                of_target.take(request_id, entry)
    return [of_target for of_target in found.values() if of_target.attempts]


def answered_lately(provider: Provider, now: datetime) -> bool:
    """Whether a caller's request was answered there, as the request log knows by now."""
    since = now - max(WINDOW, timedelta(seconds=2 * provider.health_interval))
    rows = RequestLog.objects.filter(
        received_at__gt=since, provider=provider.slug, outcome=RequestLog.Outcome.ANSWERED
    )
    return rows.exclude(request_id__startswith=f"health-{provider.slug}-").exists()


def judge(now: datetime) -> None:
    """Begin and end faults; a provider that checks found healthy is degraded from here on."""
    by_provider: dict[str, list[Seen]] = {}
    for of_target in seen(now):
        by_provider.setdefault(of_target.provider, []).append(of_target)
    faults = {fault.provider.slug: fault for fault in TrafficFault.objects.select_related("provider")}
    for slug, targets in by_provider.items():
        failing = [of_target for of_target in targets if of_target.fails]
        if failing:
            _begin(slug, failing, now)
        elif slug in faults and any(of_target.failures < of_target.attempts for of_target in targets):
            faults.pop(slug).delete()
    for fault in faults.values():
        if fault.seen_at < now - HOLD:
            fault.delete()


@transaction.atomic
def _begin(slug: str, failing: list[Seen], now: datetime) -> None:
    provider = Provider.objects.select_for_update().filter(slug=slug).first()
    if provider is None:
        return
    evidence = {"kind": "traffic", "targets": [of_target.shown() for of_target in failing]}
    fault, is_new = TrafficFault.objects.update_or_create(
        provider=provider,
        defaults={"seen_at": now, "evidence": evidence},
        create_defaults={"since": now, "seen_at": now, "evidence": evidence},
    )
    health = ProviderHealth.objects.filter(pk=provider.pk, status__in=(Status.HEALTHY, Status.UNKNOWN))
    was = health.values_list("status", flat=True).first()
    if is_new and was is not None and health.update(status=Status.DEGRADED, changed_at=now):
        HealthTransition.objects.create(
            provider=provider,
            at=now,
            before=was,
            after=Status.DEGRADED,
            reason=reason(fault),
            evidence=evidence,
        )
        logger.warning("provider %s is degraded: %s", slug, reason(fault))


def fault_of(provider: Provider) -> TrafficFault | None:
    return TrafficFault.objects.filter(provider=provider).first()


def reason(fault: TrafficFault) -> str:
    worst: Iterable[Any] = sorted(fault.evidence["targets"], key=lambda target: -target["failures"])
    parts = [
        f"{target['failures']} of {target['attempts']} requests to {target['model']} failed in a minute, "
        f"the last one: {target['detail']}"
        for target in worst
    ]
    return "; ".join(parts)[:300]
