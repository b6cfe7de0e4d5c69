"""What the first request would wait for, done before the process says that it is ready."""

import logging
import time

from django.urls import get_resolver, resolve

from proxy.gateway import Gateway

logger = logging.getLogger(__name__)


def warm_up(gateway: Gateway) -> None:
    """Import the views and build one link per provider; opens no connection. Call it in the event loop."""
    started = time.perf_counter()
    get_resolver().url_patterns  # noqa: B018 imports the URLconf and all views
    resolve("/v1/chat/completions")
    for provider in gateway.keeper.table.providers.values():
        try:
            gateway.upstreams.link(provider)
        except Exception:  # one provider that can't be called must not keep the others from serving
            logger.exception("provider %s can't be called", provider.slug)
    logger.info("warmed up in %.0f ms", (time.perf_counter() - started) * 1000)
