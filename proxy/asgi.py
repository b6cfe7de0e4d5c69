"""The fast lane: data-plane POSTs go straight to the engine, everything else to Django."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from proxy.call import Incoming
from proxy.endpoints import POST_PATHS
from proxy.engine import Refusal
from proxy.errors import RequestTooLarge
from proxy.gateway import running_gateway
from proxy.relay import Relay

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

WATCH_AFTER = 0.2  # seconds; a shorter call isn't worth a task that waits for its client to hang up


class ClientGone(Exception):
    """The client hung up before its request was whole."""


def fast_lane(django: Application, max_body_bytes: int) -> Application:
    """An ASGI application that serves data-plane POSTs without an Origin header itself."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = POST_PATHS.get(scope["path"])
            if endpoint is not None:
                headers = dict(scope["headers"])
                if b"origin" not in headers:
                    return await _serve(endpoint, headers, scope, receive, send, max_body_bytes)
        return await django(scope, receive, send)

    return application


async def _serve(
    endpoint: str,
    headers: dict[bytes, bytes],
    scope: Scope,
    receive: Receive,
    send: Send,
    max_body_bytes: int,
) -> None:
    received = time.perf_counter()
    client = scope.get("client")
    try:
        body = await _body(headers, receive, max_body_bytes)
    except ClientGone:
        return None
    except RequestTooLarge as error:
        refusal = running_gateway().engine.refuse(Incoming(endpoint, headers, b"", received), error)
        return await _respond(send, refusal.status, refusal.headers, refusal.body)
    watch = HangUpWatch(receive)
    try:
        relay = await running_gateway().engine.serve(
            Incoming(endpoint, headers, body, received, client[0] if client else "")
        )
    except Refusal as refusal:
        watch.stop()
        await _respond(send, refusal.status, refusal.headers, refusal.body)
    except asyncio.CancelledError:
        if not watch.hung_up:
            raise
    else:
        await _relay(relay, watch, send)
    finally:
        watch.stop()


async def _relay(relay: Relay, watch: "HangUpWatch", send: Send) -> None:
    try:
        if relay.stream:
            await _stream(relay, send)
        else:
            watch.stop()
            await _respond(send, relay.status, relay.headers, relay.body)
            relay.answered()
    except asyncio.CancelledError:
        if not watch.hung_up:
            raise
    finally:
        await relay.aclose(hung_up=watch.hung_up)


async def _stream(relay: Relay, send: Send) -> None:
    await send({"type": "http.response.start", "status": relay.status, "headers": relay.headers})
    while chunk := await relay.next_chunk():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _respond(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _body(headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """The whole body. Raises RequestTooLarge as soon as that is certain, or ClientGone."""
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced) > limit:
        raise too_large(limit)
    message = await receive()
    parts = [message.get("body", b"")]
    size = len(parts[0])
    while message.get("more_body"):
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise too_large(limit)
    if message["type"] == "http.disconnect":
        raise ClientGone
    return b"".join(parts) if len(parts) > 1 else parts[0]


def too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The body is larger than the {limit:,} bytes allowed.")


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
