"""Gateway keys for DRF views: the same look-up as the engine's, without the database."""

from typing import Any

from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from proxy.doors.heads import together
from proxy.gateway import running_gateway
from routing.table import KeyEntry


class Caller:
    """What DRF calls the user: the owner of a gateway key."""

    is_authenticated = True

    def __init__(self, key: KeyEntry) -> None:
        self.key = key

    def __str__(self) -> str:
        return self.key.name


def caller_key(request: Request) -> KeyEntry:
    """The key behind a request that GatewayKeyAuthentication let through."""
    caller: Any = request.user
    key: KeyEntry = caller.key
    return key


class GatewayKeyAuthentication(BaseAuthentication):
    """Raises InvalidApiKey or RateLimited, which the views render as the API's error object."""

    def authenticate(self, request: Request) -> tuple[Caller, Any]:
        gateway = running_gateway()
        address = request.META.get("REMOTE_ADDR", "")
        key, _ = gateway.engine.identify(header_bytes(request), address, gateway.keeper.table)
        return Caller(key), None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def header_bytes(request: Any) -> dict[bytes, bytes]:
    """A Django or DRF request's headers as ASGI has them. Raises InvalidRequest."""
    scope = getattr(request, "scope", None)
    if scope is not None:
        return together(scope["headers"])
    return {
        name.lower().encode("latin-1"): value.encode("latin-1", "replace")
        for name, value in request.headers.items()
    }
