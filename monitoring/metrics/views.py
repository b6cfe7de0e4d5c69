"""GET /metrics: for whoever holds METRICS_TOKEN or MASTER_KEY, or for all where METRICS_PUBLIC is set."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from monitoring.insiders import holds_token
from monitoring.metrics.exposition import CONTENT_TYPE, exposition
from proxy.doors.authentication import header_bytes
from proxy.doors.views import any_host, error_response
from proxy.errors import GatewayError, InvalidApiKey
from proxy.gateway import running_gateway

WANTED = "Metrics need METRICS_TOKEN or MASTER_KEY: send Authorization: Bearer TOKEN, or set METRICS_PUBLIC."


@any_host
def metrics(request: HttpRequest) -> HttpResponse:
    """All web processes of this DATA_DIR together, in Prometheus' text format."""
    if not (settings.METRICS_PUBLIC or holds_token(request)):
        return error_response(_refusal(request), request)
    gateway = running_gateway()
    living, ended = gateway.posting.read()
    return HttpResponse(exposition(living, ended, gateway.keeper.table), content_type=CONTENT_TYPE)


def _refusal(request: HttpRequest) -> GatewayError:
    if "authorization" not in request.headers:
        return InvalidApiKey(WANTED)
    peer = request.META.get("REMOTE_ADDR", "")
    return running_gateway().failed_auth.count(peer, header_bytes(request), InvalidApiKey(WANTED))
