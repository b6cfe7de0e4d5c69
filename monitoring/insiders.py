"""Who may see why something fails; strangers are told no more than what fails."""

import hmac
from typing import Any

from django.conf import settings
from django.db import Error
from django.http import HttpRequest

from proxy.access.identify import presents_key
from proxy.doors.authentication import header_bytes
from proxy.errors import InvalidApiKey, NotReady, RateLimited
from proxy.gateway import running_gateway

BEARER = "bearer"


def is_insider(request: HttpRequest) -> bool:
    """Whoever holds a gateway key, MASTER_KEY or METRICS_TOKEN, or is logged in as staff."""
    return holds_token(request) or _holds_key(request) or _is_staff(request)


def holds_token(request: HttpRequest) -> bool:
    """METRICS_TOKEN or MASTER_KEY as a bearer token."""
    scheme, _, token = request.headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() != BEARER:
        return False
    given = token.strip().encode()
    return any(
        hmac.compare_digest(given, allowed.encode())
        for allowed in (settings.METRICS_TOKEN, settings.MASTER_KEY)
        if allowed
    )


def _holds_key(request: HttpRequest) -> bool:
    headers = header_bytes(request)
    if not presents_key(headers):
        return False
    gateway = running_gateway()
    try:
        gateway.engine.identify(headers, request.META.get("REMOTE_ADDR", ""), gateway.keeper.table)
    except (InvalidApiKey, NotReady, RateLimited):
        return False
    return True


def _is_staff(request: HttpRequest) -> bool:
    if settings.SESSION_COOKIE_NAME not in request.COOKIES:
        return False
    user: Any = request.user
    try:
        return bool(user.is_active and user.is_staff)
    except Error:  # sessions are in the database, and readiness is asked while that is away
        return False
