"""Liveness and readiness; strangers are told what fails, insiders why."""

import time
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.http import HttpRequest, JsonResponse

from monitoring.insiders import is_insider
from monitoring.shipping.backlog import backlog_bytes
from monitoring.shipping.state import read_state
from monitoring.shipping.watching import stalled_parts
from proxy.doors.views import any_host
from proxy.gateway import Gateway, running_gateway
from routing.table import ProviderEntry

RETRY_SECONDS = 2
MOST_NAMED = 100  # rows that can't be read
UNHEALTHY, DEGRADED, HEALTHY, MAINTENANCE = "unhealthy", "degraded", "healthy", "maintenance"


@any_host
def health(request: HttpRequest) -> JsonResponse:
    """Always 200 while the process serves: restarting it would mend no provider."""
    gateway = running_gateway()
    providers = {entry.slug: _status(entry) for entry in gateway.keeper.table.providers.values()}
    hidden = settings.HEALTH_PROVIDERS == "hidden" and not is_insider(request)
    return JsonResponse(
        {
            "status": _overall(gateway, providers),
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "service": "switchstand",
            "providers": {} if hidden else providers,
        }
    )


def _status(entry: ProviderEntry) -> str:
    if entry.maintenance:
        return MAINTENANCE
    return UNHEALTHY if entry.unhealthy else HEALTHY


def _overall(gateway: Gateway, providers: dict[str, str]) -> str:
    ill = [slug for slug, status in providers.items() if status != HEALTHY]
    if not gateway.keeper.ready or (providers and len(ill) == len(providers)):
        return UNHEALTHY
    return DEGRADED if ill or gateway.keeper.problem else HEALTHY


@any_host
def liveliness(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "alive"})


@any_host
def readiness(request: HttpRequest) -> JsonResponse:
    gateway = running_gateway()
    ready = gateway.keeper.ready and not gateway.draining
    details = _details(gateway)
    content: dict[str, Any] = {
        "status": "ready" if ready else "not ready",
        "failed": _failed(gateway, details),
    }
    if is_insider(request):
        content |= details
    headers = {} if ready else {"Retry-After": str(RETRY_SECONDS)}
    return JsonResponse(content, status=200 if ready else 503, headers=headers)


def _failed(gateway: Gateway, details: dict[str, Any]) -> list[str]:
    """The checks that fail, by name; requests may be served all the same."""
    journal = details["journal"]
    failing = {
        "draining": details["draining"],
        "configuration": details["not_served"],
        "table": not gateway.keeper.ready or details["table_problem"],
        "limits": details["limits"]["problem"],
        "journal": journal["problem"],
        "shipping": journal["shipping_problem"],
    }
    return [name for name, fails in failing.items() if fails] + sorted(details["stalled"])


def _details(gateway: Gateway) -> dict[str, Any]:
    keeper = gateway.keeper
    return {
        "draining": gateway.draining,
        "table_version": keeper.table.version,
        "table_checked_seconds_ago": round(time.monotonic() - keeper.checked_at, 3)
        if keeper.checked_at
        else None,
        # The full text may name hosts: it is in the log.
        "table_problem": keeper.problem.split(":", 1)[0] or None,
        "not_served": [str(fault) for fault in keeper.table.faults[:MOST_NAMED]],
        "limits": gateway.admission.state(),
        "journal_records_lost": gateway.journal.lost,
        "journal": _journal(gateway),
        "content_records_lost": gateway.contents.lost,
        "stalled": stalled_parts(),
    }


def _journal(gateway: Gateway) -> dict[str, Any]:
    """What does not reach the books, or reaches them late."""
    directory = gateway.journal.directory
    shipper = read_state(directory)
    return {
        "problem": gateway.journal.problem or None,
        "records_waiting": gateway.journal.waiting,
        "records_damaged": shipper.damaged if shipper else 0,
        "calls_unknown": shipper.unknown if shipper else 0,
        "shipping_problem": (shipper and shipper.problem) or None,
        "bytes_not_shipped": backlog_bytes(directory, shipper),
    }
