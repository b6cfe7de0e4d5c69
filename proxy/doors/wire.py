"""The first lines of an answer, as they go over the wire: each ends with CR LF."""

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from http import HTTPStatus
from typing import Any

from uvicorn.server import ServerState

from proxy.errors import GatewayError
from proxy.ids import uuid7

STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus
}
CHUNKED = b"transfer-encoding: chunked\r\n"

_common_headers: tuple[object, bytes] = (None, b"")


def common(state: ServerState) -> bytes:
    """The headers of all answers: uvicorn makes a new list of them when their date has changed."""
    global _common_headers
    if _common_headers[0] is not state.default_headers:
        lines = [b"%b: %b\r\n" % header for header in state.default_headers]
        _common_headers = (state.default_headers, b"".join(lines))
    return _common_headers[1]


def refusal(error: GatewayError, state: ServerState) -> bytes:
    """The whole answer to what never became a request, and so leaves no row."""
    id = uuid7()
    body = error.body(id)
    return b"".join(
        (
            STATUS_LINES[error.status],
            common(state),
            b"content-type: application/json\r\nx-content-type-options: nosniff\r\n",
            b"x-request-id: %b\r\nX-LiteLLM-Proxy: true\r\n" % id.encode(),
            b"" if error.retry_mends else b"x-should-retry: false\r\n",
            b"upgrade: HTTP/1.1\r\n" if error.status == HTTPStatus.UPGRADE_REQUIRED else b"",
            b"retry-after: %d\r\n" % error.retry_after if error.retry_after else b"",
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body),
            body,
        )
    )


def without_chunks(app: Any, cycle: Any) -> Any:
    """HTTP/1.0 knows no chunks: an answer without a length ends with the connection."""
    measured = True

    async def application(scope: Any, receive: Any, send: Any) -> None:
        async def send_plainly(message: Any) -> None:
            nonlocal measured
            if message["type"] == "http.response.start":
                measured = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                cycle.chunked_encoding = None if measured else False
            elif not measured:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_plainly)

    return application


def unacknowledged(transport: asyncio.Transport) -> int:
    """Bytes that the system holds for the client: it asks for more only when much of that is gone."""
    try:
        told = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):  # it can't tell, or the socket is closed
        return 0
    return int.from_bytes(told, sys.byteorder)


def reset(transport: asyncio.Transport) -> None:
    """Closes so that the system doesn't go on holding what the client never takes."""
    transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    transport.abort()
