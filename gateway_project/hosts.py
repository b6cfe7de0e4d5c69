"""Which requests must name one of ALLOWED_HOSTS: those for what holds a link or goes by a session."""

from typing import Any

from django.http import HttpRequest
from django.middleware.common import CommonMiddleware


class HostMiddleware(CommonMiddleware):
    """Probes, scrapes and API clients call by any name or address: `any_host` of a view lets them."""

    def process_request(self, request: HttpRequest) -> None:
        """Django looks at Host here, before it knows the view."""

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> None:
        if not getattr(getattr(view, "cls", view), "any_host", False):
            request.get_host()  # raises DisallowedHost
