"""The DRF door without what only pages need: no sessions, no CSRF, no signals, no thread between.

A data-plane request that comes through Django (from a browser, or under another server than ours)
meets django-cors-headers and its view, nothing else. Figures: docs/decisions.md.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any

from corsheaders.middleware import CorsMiddleware
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.http import HttpRequest, HttpResponseBase

from proxy.endpoints import POST_URLS
from proxy.errors import RequestTimeout
from proxy.views import VIEWS

Receive = Callable[[], Awaitable[dict[str, Any]]]

WATCH_AFTER = 0.2  # seconds; a shorter call isn't worth a task that waits for its client to hang up
SLOWEST_BODY = 500  # bytes per second, on average, after the first BODY_SECONDS
DATA_PLANE_PATHS = {url.decode(): endpoint for url, endpoint in POST_URLS.items()}


class ClientGone(Exception):
    """The client hung up before its request was whole."""


class DataPlaneHandler(ASGIHandler):
    """Django's handler with a chain of one middleware."""

    def load_middleware(self, is_async: bool = True) -> None:
        async def view(request: HttpRequest) -> HttpResponseBase:
            response: HttpResponseBase = await VIEWS[DATA_PLANE_PATHS[request.path_info]](request)
            return response

        self._middleware_chain: Any = CorsMiddleware(view)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with contextlib.suppress(ClientGone):
            request = await _request(scope, receive)
            await self._answer(request, receive, send)

    async def _answer(self, request: ASGIRequest, receive: Receive, send: Any) -> None:
        watch = HangUpWatch(receive)
        try:
            response = await self._middleware_chain(request)
            await self.send_response(response, send)
        except asyncio.CancelledError:
            if not watch.hung_up:
                raise
        finally:
            watch.stop()


class _TooLarge(BytesIO):
    """Stands for a body over the limit: the view finds out when it reads it."""

    def read(self, *_: Any) -> bytes:
        raise RequestDataTooBig


class _Stalled(BytesIO):
    """Stands for a body that stopped coming."""

    def read(self, *_: Any) -> bytes:
        raise RequestTimeout("The body did not arrive in time.")


async def _request(scope: Any, receive: Receive) -> ASGIRequest:
    """Raises ClientGone."""
    try:
        body = await _body(receive, settings.MAX_BODY_BYTES)
    except TimeoutError:
        return ASGIRequest(scope, _Stalled())
    if body is None:
        return ASGIRequest(scope, _TooLarge())
    request = ASGIRequest(scope, BytesIO())
    request._body = body
    return request


async def _body(receive: Receive, limit: int) -> bytes | None:
    """The whole body, None as soon as it is over the limit. Raises ClientGone, TimeoutError."""
    parts, size, more = [], 0, True
    waits_since = time.perf_counter()
    while more:
        left = settings.BODY_SECONDS + size / SLOWEST_BODY - (time.perf_counter() - waits_since)
        async with asyncio.timeout(min(max(left, 0), settings.BODY_SECONDS)):
            message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > limit:
            return None
    return b"".join(parts) if len(parts) > 1 else parts[0]


class HangUpWatch:
    """Cancels the serving task when its client hangs up.

    Starts to listen only after WATCH_AFTER: most calls are over by then and need no second task.
    """

    __slots__ = ("_listener", "_receive", "_serving", "_timer", "hung_up")

    def __init__(self, receive: Receive) -> None:
        self.hung_up = False
        self._receive = receive
        self._serving = asyncio.current_task()
        self._listener: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._start)

    def _start(self) -> None:
        self._listener = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        message = await self._receive()
        while message["type"] != "http.disconnect":
            message = await self._receive()
        self.hung_up = True
        if self._serving is not None:
            self._serving.cancel()

    def stop(self) -> None:
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()
