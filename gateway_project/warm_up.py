"""What the first request would wait for, done before the process says that it is ready."""

import asyncio
import logging
import time
from typing import Any

import anyio.lowlevel
from django.conf import settings

from proxy.gateway import Gateway

logger = logging.getLogger(__name__)


async def warm_up(gateway: Gateway, django: Any) -> None:
    """Import what requests need and build one link per provider; opens no connection."""
    started = time.perf_counter()
    await _ask(django, "/health/liveliness")
    await anyio.lowlevel.checkpoint()  # httpx's client imports the loop's backend on first use
    for provider in gateway.keeper.table.providers.values():
        try:
            gateway.upstreams.link(provider)
        except Exception:  # one provider that can't be called must not keep the others from serving
            logger.exception("provider %s can't be called", provider.slug)
    logger.debug("warmed up in %.0f ms", (time.perf_counter() - started) * 1000)


async def _ask(django: Any, path: str) -> None:
    """One GET without a server: views, middleware and what they import on first use."""
    host = next(iter(settings.ALLOWED_HOSTS), "").lstrip(".*") or "localhost"
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", host.encode())],
    }
    asked = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        return asked.pop() if asked else await asyncio.get_running_loop().create_future()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            logger.warning("warm-up: %s answered %d", path, message["status"])

    await django(scope, receive, send)
