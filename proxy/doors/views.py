"""The API's definition as DRF views: the door for browsers, and for projects that mount this app."""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from asgiref.sync import markcoroutinefunction
from django.core.exceptions import DisallowedHost, RequestDataTooBig
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.decorators import classonlymethod
from django.views.decorators.csrf import csrf_exempt
from drf_spectacular.utils import extend_schema
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from proxy.access.identify import presents_key
from proxy.answers.headers import pairs
from proxy.answers.relay import Relay
from proxy.calls.call import Incoming, given_request_id
from proxy.doors import schema
from proxy.doors.authentication import GatewayKeyAuthentication, caller_key, header_bytes
from proxy.endpoints import CHAT_COMPLETIONS, UNKNOWN, is_planned, shape_of
from proxy.errors import (
    EndpointNotFound,
    EndpointPlanned,
    GatewayError,
    InvalidApiKey,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    Refusal,
    RequestTimeout,
    RequestTooLarge,
)
from proxy.gateway import running_gateway
from proxy.ids import uuid7
from routing.table import RouteEntry

LONGEST_PATH = 200  # characters of it that an answer repeats
NO_PAGE = (
    "<!doctype html><meta charset=utf-8><title>Not found</title><h1>There is no such page</h1>"
    "<p>This is an LLM gateway: see its <a href='/'>first page</a>.</p>"
)
View = TypeVar("View", bound=Callable[..., Any])


def any_host(view: View) -> View:
    """For what is called by address, as probes do: the answer holds no link, and no session counts."""
    view.any_host = True  # type: ignore[attr-defined]
    return view


def error_response(error: GatewayError, request: HttpRequest | Request) -> HttpResponse:
    """For what never reaches the engine, and so leaves no row."""
    request_id = given_request_id(request.headers.get("x-request-id", "").encode()) or uuid7()
    response = HttpResponse(error.body(request_id), status=error.status, content_type="application/json")
    response["x-request-id"] = request_id
    response["X-LiteLLM-Proxy"] = "true"
    if error.status in (429, 503) and error.retry_after is not None:
        response["Retry-After"] = str(max(int(-(-error.retry_after // 1)), 1))
    if not error.retry_mends:
        response["x-should-retry"] = "false"
    if isinstance(error, InvalidApiKey):
        response["WWW-Authenticate"] = "Bearer"
    return response


class GatewayView(APIView):
    """Renders every error as the API's error object."""

    authentication_classes = [GatewayKeyAuthentication]
    any_host = True

    def handle_exception(self, exc: Exception) -> Any:
        if isinstance(exc, GatewayError):
            return error_response(exc, self.request)
        if isinstance(exc, exceptions.MethodNotAllowed):
            refused = not_allowed(self.request.method or "", self.allowed_methods)
            return error_response(refused, self.request)
        return super().handle_exception(exc)


def not_allowed(method: str, allowed: list[str]) -> MethodNotAllowed:
    return MethodNotAllowed(f"{method} is not allowed here; allowed are {', '.join(allowed)}.")


class ChatCompletionsView(GatewayView):
    """The engine authenticates, so that a refusal is logged like every other request."""

    @classonlymethod
    def as_view(cls, **initkwargs: Any) -> Any:
        async def view(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            return await cls(**initkwargs).dispatch_async(request)

        view.cls = cls  # type: ignore[attr-defined] # what drf-spectacular looks for
        view.initkwargs = initkwargs  # type: ignore[attr-defined]
        markcoroutinefunction(view)
        return csrf_exempt(view)

    async def dispatch_async(self, request: HttpRequest) -> HttpResponseBase:
        if request.method == "POST":
            return await serve(request, CHAT_COMPLETIONS)
        if request.method == "OPTIONS":
            return HttpResponse(status=204, headers={"Allow": "POST, OPTIONS"})
        allowed = ["POST", "OPTIONS"]
        response = error_response(not_allowed(request.method or "", allowed), request)
        response["Allow"] = ", ".join(allowed)
        return response

    @extend_schema(
        summary="Create a chat completion",
        request=schema.ChatCompletionSerializer,
        parameters=schema.HEADERS,
        responses={200: dict, **schema.ERRORS},
    )
    def post(self, request: Request) -> Response:
        raise AssertionError("dispatch_async serves POST; this method carries the schema")


async def serve(request: HttpRequest, endpoint: str) -> HttpResponseBase:
    """The Django door: a thin adapter over the engine."""
    engine, received = running_gateway().engine, time.perf_counter()
    try:
        headers = header_bytes(request)
    except InvalidRequest as error:
        return error_response(error, request)
    incoming = Incoming(endpoint, headers, b"", received, request.META.get("REMOTE_ADDR", ""))
    try:
        try:
            incoming.body = request.body
        except RequestDataTooBig:
            from django.conf import settings

            raise engine.refuse(incoming, RequestTooLarge.over(settings.MAX_BODY_BYTES)) from None
        except GatewayError as error:
            raise engine.refuse(incoming, error) from None
        relay = await engine.serve(incoming)
    except Refusal as refusal:
        response = HttpResponse(refusal.body, status=refusal.status)
        if refusal.status == RequestTimeout.status:
            response["Connection"] = "close"  # what else comes on it is the rest of the body
        return _with_headers(response, refusal.headers)
    if isinstance(relay, Relay):
        return _with_headers(StreamingHttpResponse(_chunks(relay), status=relay.status), relay.headers)
    relay.close()
    return _with_headers(HttpResponse(relay.body, status=relay.status), relay.headers)


async def _chunks(relay: Relay) -> AsyncIterator[bytes]:
    try:
        while chunk := await relay.next_chunk():
            yield chunk
    finally:
        await relay.aclose()


def _with_headers(response: Any, headers: bytes) -> HttpResponseBase:
    for name, value in pairs(headers):
        response[name] = value
    return response


VIEWS = {CHAT_COMPLETIONS: ChatCompletionsView.as_view()}
"""By endpoint; for the door that knows the path already."""


class ModelsView(GatewayView):
    @extend_schema(
        summary="List the models that the key may use", responses={200: schema.ModelSerializer(many=True)}
    )
    def get(self, request: Request) -> Response:
        routes = running_gateway().keeper.table.routes
        key = caller_key(request)
        data = [
            _model(name, found.route) for name, found in sorted(routes.items()) if key.may_use(found.route)
        ]
        return Response({"object": "list", "data": data})


class ModelView(GatewayView):
    @extend_schema(summary="One model", responses={200: schema.ModelSerializer, 404: schema.ErrorSerializer})
    def get(self, request: Request, name: str) -> Response:
        found = running_gateway().keeper.table.resolve(name)
        if found is None or not caller_key(request).may_use(found.route):
            raise ModelNotFound(f"The model {name} does not exist.", param="model")
        return Response(_model(name, found.route))


def _model(name: str, route: RouteEntry) -> dict[str, Any]:
    owners = sorted({target.provider.slug for target in route.targets})
    return {"id": name, "object": "model", "created": route.created, "owned_by": ", ".join(owners)}


@csrf_exempt
@any_host
async def unknown_endpoint(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
    """For every path that no one else serves, whatever the method. Who shows a key leaves a row."""
    if wants_page(request):
        return no_page()
    error = fault_of(request.path_info)
    try:
        headers = header_bytes(request)
    except InvalidRequest:
        return error_response(error, request)
    if not presents_key(headers):
        return error_response(error, request)
    incoming = Incoming(UNKNOWN, headers, b"", time.perf_counter(), request.META.get("REMOTE_ADDR", ""))
    refusal = running_gateway().engine.refuse(incoming, error)
    response = HttpResponse(refusal.body, status=refusal.status)
    _with_headers(response, refusal.headers)
    return response


def fault_of(path: str) -> GatewayError:
    if not is_planned(path):
        return EndpointNotFound(f"{path[:LONGEST_PATH]} is not an endpoint of this gateway.")
    error = EndpointPlanned(
        f"{path[:LONGEST_PATH]} is not served yet: this gateway has chat/completions and models."
    )
    error.shape = shape_of(path)
    return error


def wants_page(request: HttpRequest) -> bool:
    """Whether a person reads the answer."""
    return request.method in ("GET", "HEAD") and "text/html" in request.headers.get("accept", "")


def no_page() -> HttpResponse:
    return HttpResponse(NO_PAGE, status=404)


@any_host
def not_found(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
    """What a view of Django's did not find."""
    return no_page() if wants_page(request) else error_response(fault_of(request.path_info), request)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """What Django itself refuses before any view, in the API's shape."""
    if isinstance(exception, DisallowedHost):
        message = "The Host header names a host that is not in ALLOWED_HOSTS."
        return error_response(InvalidRequest(message, param="host", code="invalid_host"), request)
    return error_response(InvalidRequest("The request is malformed."), request)


def server_error(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
    return error_response(GatewayError(), request)
