"""What a check's result means for the provider's status, and the rows that keep it."""

import logging
from dataclasses import replace
from typing import Any

from django.db import transaction

from monitoring.health import traffic
from monitoring.health.meaning import Meaning, Verdict
from monitoring.health.models import HealthCheck, HealthTransition
from monitoring.health.probe import Result
from monitoring.incidents import incidents
from monitoring.shipping.storing import store
from routing.models import Provider, ProviderHealth
from routing.publishing import publish_change

logger = logging.getLogger(__name__)

Status, Mark = ProviderHealth.Status, ProviderHealth.Mark
_MARKS = {Verdict.REFUSED: Mark.CREDENTIAL, Verdict.UNPAID: Mark.UNPAID}


def record(result: Result) -> str:
    """Store the result; publish a new table only where the provider became or ceased to be unhealthy.

    Returns the status after it, "" where the provider was deleted meanwhile.
    """
    if result.bought is not None:
        store([result.bought])
    return _record(result)


@transaction.atomic
def _record(result: Result) -> str:
    provider = Provider.objects.select_for_update().filter(pk=result.provider.pk).first()
    if provider is None:
        return ""
    result = _weighed(result, provider)
    before = ProviderHealth.objects.filter(pk=provider.pk).first()
    if before is not None and before.checked_at > result.at:
        status = before.status  # a slow check that a later one has overtaken
    else:
        status = _judge(result, provider, before)
    HealthCheck.objects.create(
        provider=provider,
        at=result.at,
        kind=result.kind,
        ok=not result.problem and result.meaning.verdict not in _MARKS,
        status=status,
        latency_ms=result.latency_ms,
        detail=result.detail[:300],
    )
    return status


def _weighed(result: Result, provider: Provider) -> Result:
    """What live traffic says of the check's path: an answer to a caller says more than a missing page."""
    if not result.meaning.misplaced or not traffic.answered_lately(provider, result.at):
        return result
    text = f"check path wrong: {provider.health_url} answered {result.detail[:80]}, while requests succeed"
    return replace(result, problem="", meaning=Meaning(Verdict.NO_CHECK, text))


def _judge(result: Result, provider: Provider, before: ProviderHealth | None) -> str:
    is_good = not result.problem and result.meaning.verdict is Verdict.GOOD
    failures = (before.failures if before else 0) + 1 if result.problem else 0
    successes = (before.successes if before else 0) + 1 if is_good else 0
    status = _status(result, provider, before, failures, successes)
    fault = traffic.fault_of(provider) if status in (Status.HEALTHY, Status.UNKNOWN) else None
    if fault is not None:
        status = Status.DEGRADED
    mark = _mark(result, before, status)
    turned = before is None or before.status != status
    ProviderHealth.objects.update_or_create(
        provider=provider,
        defaults={
            "status": status,
            "checked_at": result.at,
            "changed_at": result.at if before is None or turned else before.changed_at,
            "latency_ms": result.latency_ms,
            "failures": failures,
            "successes": successes,
            "detail": result.detail[:300],
            "mark": mark,
        },
    )
    if Mark.UNPAID in (mark, before.mark if before else "") and (before is None or before.mark != mark):
        publish_change()
    if turned:
        was = before.status if before else Status.UNKNOWN
        reason = traffic.reason(fault) if fault else _reason(result, provider, status, failures, successes)
        evidence = fault.evidence if fault else _evidence(result, failures, successes)
        _tell(result, provider, (was, status), reason, evidence)
    return status


def _status(
    result: Result, provider: Provider, before: ProviderHealth | None, failures: int, successes: int
) -> str:
    """Apart from the thresholds the status stays what it was, in both directions."""
    was = before.status if before else Status.UNKNOWN
    verdict = result.meaning.verdict
    if verdict in _MARKS:
        return Status.DEGRADED
    if verdict is Verdict.NO_CHECK:
        return Status.UNKNOWN
    if result.problem:
        return Status.UNHEALTHY if failures >= provider.health_threshold else was
    if was == Status.UNHEALTHY and successes < provider.health_recovery:
        return was
    slow = provider.health_slow_ms is not None and result.latency_ms > provider.health_slow_ms
    return Status.DEGRADED if slow else Status.HEALTHY


def _mark(result: Result, before: ProviderHealth | None, status: str) -> str:
    """It stays until a check says something else: one that failed may have asked nobody."""
    if mark := _MARKS.get(result.meaning.verdict):
        return mark
    stays = result.problem and before is not None and before.status == status
    return before.mark if stays and before is not None else ""


def _tell(
    result: Result, provider: Provider, turn: tuple[str, str], reason: str, evidence: dict[str, Any]
) -> None:
    was, status = turn
    HealthTransition.objects.create(
        provider=provider, at=result.at, before=was, after=status, reason=reason, evidence=evidence
    )
    news = logging.INFO if was == Status.UNKNOWN and status == Status.HEALTHY else logging.WARNING
    logger.log(news, "provider %s is %s: %s", provider.slug, status, reason)
    if Status.UNHEALTHY in turn:
        incidents.provider_turned(provider, result.at, down=status == Status.UNHEALTHY)
        publish_change()


def _evidence(result: Result, failures: int, successes: int) -> dict[str, Any]:
    return {
        "kind": result.kind,
        "latency_ms": result.latency_ms,
        "detail": result.detail[:300],
        "failures": failures,
        "successes": successes,
    }


def _reason(result: Result, provider: Provider, status: str, failures: int, successes: int) -> str:
    if result.problem:
        return f"{failures} failed checks in a row, the last one: {result.problem}"[:300]
    if result.meaning.verdict is not Verdict.GOOD:
        return result.detail[:300]
    if status == Status.DEGRADED:
        return f"answered in {result.latency_ms:,.0f} ms, more than {provider.health_slow_ms:,} ms"
    return f"{successes} good checks in a row, the last one in {result.latency_ms:,.0f} ms"
