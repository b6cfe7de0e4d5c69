"""What no page reads, refused before any view."""

from collections.abc import Callable
from urllib.parse import unquote_plus

from django.http import HttpRequest, HttpResponseBase

from proxy.doors.views import error_response
from proxy.errors import InvalidRequest


class NoNulMiddleware:
    """Postgres stores no NUL and fails over one, in whatever parameter it comes."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if "\0" in request.path or "\0" in unquote_plus(request.META.get("QUERY_STRING", "")):
            return error_response(InvalidRequest("The URL must hold no NUL (%00)."), request)
        return self._get_response(request)
