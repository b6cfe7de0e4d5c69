"""CORS origins that admins list, beside those in CORS_ALLOWED_ORIGINS."""

import re
from typing import Any

from corsheaders.middleware import CorsMiddleware
from corsheaders.signals import check_request_enabled
from django.http import HttpRequest
from django.utils.cache import patch_vary_headers

from proxy.gateway import running_gateway

MOST_ASKED, LONGEST_ASKED = 64, 64
_DATA_PLANE = re.compile(r"^/(v1|api/llm|chat|models)(/|$)")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}\Z")


class Cors(CorsMiddleware):
    """On the data plane a preflight allows what it asks for: SDKs send headers that no list keeps up with."""

    def add_response_headers(self, request: HttpRequest, response: Any) -> Any:
        response = super().add_response_headers(request, response)
        if "Access-Control-Allow-Headers" in response and _DATA_PLANE.match(request.path_info):
            patch_vary_headers(response, ("Access-Control-Request-Headers",))
            if asked := _asked(request):
                response["Access-Control-Allow-Headers"] = ", ".join(asked)
        return response


def _asked(request: HttpRequest) -> list[str]:
    """Empty where it is too much, or no list of names."""
    text = request.headers.get("Access-Control-Request-Headers", "")
    if len(text) > MOST_ASKED * (LONGEST_ASKED + 2):
        return []
    names = [name.strip() for name in text.split(",") if name.strip()]
    fits = len(names) <= MOST_ASKED and all(map(_TOKEN.match, names))
    return names if fits else []


def connect() -> None:
    check_request_enabled.connect(listed_origin, dispatch_uid="switchstand-cors")


def listed_origin(sender: Any, request: HttpRequest, **_: Any) -> bool:
    """From the routing table: no query. Only for the paths that CORS is for at all."""
    from corsheaders.conf import conf

    if not re.match(conf.CORS_URLS_REGEX, request.path_info):
        return False
    origins = running_gateway().keeper.table.cors_origins
    return request.headers.get("Origin") in origins or "*" in origins
