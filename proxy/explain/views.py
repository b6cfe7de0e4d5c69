"""GET /api/explain: for staff who are logged in, and for the MASTER_KEY."""

from typing import Any

import msgspec
from django.conf import settings
from django.utils.crypto import constant_time_compare
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import APIException, AuthenticationFailed, Throttled, ValidationError
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from proxy.doors.authentication import header_bytes
from proxy.errors import InvalidApiKey, RateLimited
from proxy.explain.explain import Question
from proxy.explain.live import Live, live
from proxy.gateway import running_gateway
from routing.compiled_keys import MASTER
from routing.table import KeyEntry

PERMISSION = "routing.view_modelroute"


class Master:
    """What DRF calls the user: the owner of the MASTER_KEY."""

    is_authenticated = is_staff = True

    def has_perm(self, permission: str) -> bool:
        return True


class MasterKeyAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[Master, None] | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        if not settings.MASTER_KEY or not constant_time_compare(token.strip(), settings.MASTER_KEY):
            raise self._counted(request)
        return Master(), None

    def _counted(self, request: Request) -> APIException:
        """Of one more wrong key."""
        peer, headers = request.META.get("REMOTE_ADDR", ""), header_bytes(request)
        error = running_gateway().failed_auth.count(peer, headers, InvalidApiKey())
        if isinstance(error, RateLimited):
            return Throttled(error.retry_after)
        return AuthenticationFailed("This needs the MASTER_KEY, or a session of the admin.")

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class MayViewRoutes(BasePermission):
    def has_permission(self, request: Request, view: Any) -> bool:
        user: Any = request.user
        return bool(user and user.is_authenticated and user.is_staff and user.has_perm(PERMISSION))


PARAMETERS = {
    "model": "As a caller would send it",
    "key_name": "The API key with this name; without: the MASTER_KEY's rights",
    "provider": "As in x-litellm-route",
    "tags": "As in x-litellm-tags",
    "session": "As in x-session-id",
    "user": "As in the body's user",
    "stream": "true: as for a stream",
}


class ExplainView(APIView):
    authentication_classes = [MasterKeyAuthentication, SessionAuthentication]
    permission_classes = [MayViewRoutes]

    @extend_schema(
        summary="Explain where a request would go and why, without asking any provider",
        parameters=[OpenApiParameter(name, str, description=text) for name, text in PARAMETERS.items()],
        responses=dict,
    )
    def get(self, request: Request) -> Response:
        given = {name: request.query_params.get(name, "").strip() for name in PARAMETERS}
        if not given["model"]:
            raise ValidationError({"model": "is missing: the model that a caller would ask for"})
        state = live()
        question = Question(
            model=given["model"],
            key=_key(state, given["key_name"]),
            provider=given["provider"],
            tags=given["tags"],
            session=given["session"],
            user=given["user"],
            stream=given["stream"].lower() in ("true", "1"),
        )
        return Response(msgspec.to_builtins(state.explain(question)))


def _key(state: Live, name: str) -> KeyEntry:
    if not name:
        return MASTER
    found = state.key_named(name)
    if found is None:
        raise ValidationError({"key_name": f"there is no API key {name!r}"})
    return found
