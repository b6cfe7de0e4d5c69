"""What pages need behind TLS and in browsers: who is believed about https, and what scripts may run."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils.deprecation import MiddlewareMixin

from proxy.access.client_address import TrustedProxies

FORWARDED_PROTO = "HTTP_X_FORWARDED_PROTO"
_POLICY = (
    "default-src 'self'; script-src {}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
# The admin's theme is written for Alpine, which evaluates the expressions in its attributes.
ADMIN_POLICY = _POLICY.format("'self' 'unsafe-eval'")
PAGE_POLICY = _POLICY.format("'self'")


class PageSecurity(MiddlewareMixin):
    def process_request(self, request: HttpRequest) -> None:
        """X-Forwarded-Proto is what a trusted proxy wrote last, or nothing."""
        told = request.META.pop(FORWARDED_PROTO, None)
        proxies = TrustedProxies(settings.TRUSTED_PROXIES)
        if told is not None and proxies.trusts(request.META.get("REMOTE_ADDR", "")):
            request.META[FORWARDED_PROTO] = told.rpartition(",")[2].strip()

    def process_response(self, request: HttpRequest, response: Any) -> Any:
        if response.headers.get("Content-Type", "").startswith("text/html"):
            policy = ADMIN_POLICY if request.path_info.startswith("/admin/") else PAGE_POLICY
            response.headers.setdefault("Content-Security-Policy", policy)
        return response
