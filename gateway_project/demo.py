"""The demo provider, served by the web process on a loopback socket that the kernel chooses."""

import asyncio
import logging
import socket

import uvicorn
from asgiref.sync import sync_to_async
from django.db import Error
from uvicorn.server import ServerState

from proxy.demo_upstream import application
from routing.demo_provider import DEMO_URL, serve_at
from routing.models import Provider

logger = logging.getLogger(__name__)


class Demo:
    """Called over HTTP like any other provider, while some provider's base URL is DEMO_URL."""

    def __init__(self) -> None:
        self._state = ServerState()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Before the routing table is compiled: it holds the address."""
        if not await sync_to_async(_wanted)():
            return
        config = uvicorn.Config(application, lifespan="off", ws="none", access_log=False, log_config=None)
        config.load()
        loop = asyncio.get_running_loop()
        # The protocol alone: a second uvicorn.Server would take this process's signals.
        self._server = await loop.create_server(
            lambda: config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=self._state, app_state={}, _loop=loop
            ),
            sock=_listening(),
        )
        host, port = self._server.sockets[0].getsockname()
        serve_at(f"http://{host}:{port}/v1")

    def stop(self) -> None:
        """After the gateway, whose open streams may come from here."""
        if self._server is not None:
            self._server.close()
            for connection in list(self._state.connections):
                connection.shutdown()


def _wanted() -> bool:
    try:
        return Provider.objects.filter(base_url__startswith=DEMO_URL).exists()
    except Error as error:
        logger.warning("the demo provider is not served: %s", type(error).__name__)
        return False


def _listening() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    listener.setblocking(False)
    return listener
