"""Bodies for everything that is no data-plane request: read in bounds, before Django sees them.

Django itself would put a body of any size on the disk, and wait for it without end.
"""

from typing import Any

from django.conf import settings

from proxy.access.client_address import counted_as
from proxy.bodies.arriving import ClientGone, Receive, address_of, announced, read_body
from proxy.bodies.budget import Intake
from proxy.errors import GatewayError, RequestTimeout
from proxy.gateway import running_gateway
from proxy.ids import uuid7


class BoundedPages:
    """An ASGI application around Django's."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: Any, receive: Receive, send: Any) -> None:
        if scope["type"] != "http" or announced(scope) == 0:
            return await self._application(scope, receive, send)
        intake = Intake(running_gateway().page_bodies, counted_as(address_of(scope)), settings.BODY_SECONDS)
        try:
            body = await read_body(scope, receive, settings.PAGE_BODY_BYTES, intake)
        except ClientGone:
            return intake.release()
        except GatewayError as error:
            intake.release()
            return await refuse(send, error)
        try:
            return await self._application(scope, _again(body, receive), send)
        finally:
            intake.release()


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read, then what else comes."""
    given = False

    async def receive_again() -> dict[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


async def refuse(send: Any, error: GatewayError) -> None:
    id = uuid7()
    body = error.body(id)
    headers = [
        (b"content-type", b"application/json"),
        (b"x-content-type-options", b"nosniff"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", id.encode()),
        (b"x-litellm-proxy", b"true"),
    ]
    if not error.retry_mends:
        headers.append((b"x-should-retry", b"false"))
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    if isinstance(error, RequestTimeout):
        headers.append((b"connection", b"close"))  # what else comes on it is the rest of the body
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
