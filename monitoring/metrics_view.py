"""GET /metrics: for whoever holds METRICS_TOKEN or MASTER_KEY, or for all where METRICS_PUBLIC is set."""

import hmac

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from monitoring.exposition import CONTENT_TYPE, exposition
from proxy.errors import InvalidApiKey
from proxy.gateway import running_gateway
from proxy.views import error_response

WANTED = "Metrics need METRICS_TOKEN or MASTER_KEY: send Authorization: Bearer TOKEN, or set METRICS_PUBLIC."


def metrics(request: HttpRequest) -> HttpResponse:
    """All web processes of this DATA_DIR together, in Prometheus' text format."""
    if not (settings.METRICS_PUBLIC or _may_read(request)):
        return error_response(InvalidApiKey(WANTED), request)
    gateway = running_gateway()
    living, ended = gateway.posting.read()
    return HttpResponse(exposition(living, ended, gateway.keeper.table), content_type=CONTENT_TYPE)


def _may_read(request: HttpRequest) -> bool:
    scheme, _, token = request.headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() != "bearer":
        return False
    given = token.strip().encode()
    return any(
        hmac.compare_digest(given, allowed.encode())
        for allowed in (settings.METRICS_TOKEN, settings.MASTER_KEY)
        if allowed
    )
