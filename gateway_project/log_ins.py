"""Log-ins wait for their turn before Django gives each a thread, and are counted where they fail."""

from collections.abc import Callable
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib.auth.signals import user_login_failed
from django.core.exceptions import BadRequest, SuspiciousOperation
from django.core.handlers.asgi import ASGIHandler
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.http.multipartparser import MultiPartParserError
from django.urls import reverse

from proxy.access.client_address import client_of, counted_as
from proxy.access.log_in_line import Attempt, LogInLine
from proxy.doors.views import error_response
from proxy.errors import RateLimited, RequestTooLarge
from proxy.gateway import running_gateway

FORM_FAULTS = (MultiPartParserError, SuspiciousOperation, BadRequest, UnicodeError)
"""What reading a form raises: too many fields, another charset, no multipart."""
LONGEST_FORM = 16 * 1024  # bytes
PAGE = (
    "<!doctype html><title>Too many log-ins</title>"
    "<p>Too many log-ins at once: <a href=''>try again</a> in a few seconds.</p>"
)


class DjangoHandler(ASGIHandler):
    """Django, but for log-ins: middleware would hold a thread for each that waits."""

    _line: LogInLine | None = None

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        if request.method != "POST" or request.path_info != reverse("admin:login"):
            return await super().get_response_async(request)
        if len(request.body) > LONGEST_FORM:
            return error_response(RequestTooLarge.over(LONGEST_FORM), request)
        if self._line is None:
            self._line = LogInLine(running_gateway().failed_auth)
        attempt = _attempt(request)
        request.failed_log_in = partial(self._line.fail, attempt)  # type: ignore[attr-defined]
        try:
            async with self._line.turn(attempt):
                return await super().get_response_async(request)
        except RateLimited as error:
            return _refused(request, error)


def _attempt(request: HttpRequest) -> Attempt:
    try:
        name = request.POST.get("username", "")
    except FORM_FAULTS:
        name = ""  # Django answers 400 when the page reads it
    # As claimed, and so no reason to let more through: only whose turn it is goes by it.
    claimed = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    browser = f"{claimed} {request.COOKIES.get(settings.CSRF_COOKIE_NAME, '')}"
    return Attempt(counted_as(client_of(request)), browser, name)


def _refused(request: HttpRequest, error: RateLimited) -> HttpResponse:
    response = error_response(error, request)
    if "text/html" in request.headers.get("accept", ""):
        response.content = PAGE
        response["content-type"] = "text/html; charset=utf-8"
    return response


@receiver(user_login_failed)
def _count(sender: Any, request: HttpRequest | None = None, **_: Any) -> None:
    failed: Callable[[], None] | None = getattr(request, "failed_log_in", None)
    if failed is not None:
        failed()
