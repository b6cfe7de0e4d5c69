"""The DRF door without what only pages need: no sessions, no CSRF, no signals, no thread between.

A data-plane request that comes through Django (from a browser, or under another server than ours)
meets django-cors-headers and its view, nothing else. Figures: docs/decisions.md.
"""

import asyncio
import contextlib
from io import BytesIO
from typing import Any

from django.conf import settings
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.http import HttpRequest, HttpResponseBase

from proxy.bodies.arriving import ClientGone, Receive, address_of, read_body
from proxy.bodies.budget import Intake
from proxy.doors import heads
from proxy.doors.cors import Cors
from proxy.doors.views import VIEWS
from proxy.endpoints import POST_URLS
from proxy.errors import GatewayError
from proxy.gateway import running_gateway

WATCH_AFTER = 0.2  # seconds; a shorter call isn't worth a task that waits for its client to hang up
DATA_PLANE_PATHS = {url.decode(): endpoint for url, endpoint in POST_URLS.items()}


class DataPlaneHandler(ASGIHandler):
    """Django's handler with a chain of one middleware."""

    def load_middleware(self, is_async: bool = True) -> None:
        async def view(request: HttpRequest) -> HttpResponseBase:
            response: HttpResponseBase = await VIEWS[DATA_PLANE_PATHS[request.path_info]](request)
            return response

        self._middleware_chain: Any = Cors(view)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with contextlib.suppress(ClientGone):
            unread = Unread(scope, receive)
            try:
                await self._answer(await unread.request(), receive, send)
            finally:
                if unread.intake is not None:
                    unread.intake.release()

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


class _Refused(BytesIO):
    """Stands for a body that is not wanted, or did not come: the view finds out when it reads it."""

    def __init__(self, error: GatewayError) -> None:
        super().__init__()
        self._errors = [error]

    def read(self, *_: Any) -> bytes:
        raise self._errors.pop()  # or each would know the other


class Unread:
    """A data-plane request before its body is read."""

    def __init__(self, scope: Any, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive
        self.intake: Intake | None = None

    async def request(self) -> ASGIRequest:
        """Raises ClientGone."""
        try:
            body = await self._body()
        except GatewayError as error:
            return ASGIRequest(self._scope, _Refused(error))
        request = ASGIRequest(self._scope, BytesIO())
        request._body = body
        return request

    async def _body(self) -> bytes:
        if self._scope["method"] == "POST":
            holder, budget = self._key(), running_gateway().bodies
            limit = settings.MAX_BODY_BYTES
        else:
            holder, budget = address_of(self._scope), running_gateway().page_bodies
            limit = settings.PAGE_BODY_BYTES
        self.intake = Intake(budget, holder, settings.BODY_SECONDS)
        return await read_body(self._scope, self._receive, limit, self.intake)

    def _key(self) -> str:
        """Before the body is asked for. Raises InvalidRequest, InvalidApiKey, RateLimited."""
        gateway = running_gateway()
        headers = heads.together(self._scope["headers"])
        key, _ = gateway.engine.identify(headers, address_of(self._scope), gateway.keeper.table)
        return f"key {key.id}"


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
