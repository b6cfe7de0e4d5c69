"""CORS origins that admins list, beside those in CORS_ALLOWED_ORIGINS."""

import re
from typing import Any

from corsheaders.signals import check_request_enabled
from django.http import HttpRequest

from proxy.gateway import running_gateway


def connect() -> None:
    check_request_enabled.connect(listed_origin, dispatch_uid="switchstand-cors")


def listed_origin(sender: Any, request: HttpRequest, **_: Any) -> bool:
    """From the routing table: no query. Only for the paths that CORS is for at all."""
    from corsheaders.conf import conf

    if not re.match(conf.CORS_URLS_REGEX, request.path_info):
        return False
    origins = running_gateway().keeper.table.cors_origins
    return request.headers.get("Origin") in origins or "*" in origins
