"""The ASGI application: the fast lane in front of Django, and what starts and ends with them."""

import gc
import os
from typing import cast

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_project.settings")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from asgiref.sync import sync_to_async  # noqa: E402 Django must be set up before its apps are imported
from django.conf import settings  # noqa: E402

from monitoring.shipping import Shipper  # noqa: E402
from proxy.asgi import Application, Receive, Scope, Send, fast_lane  # noqa: E402
from proxy.gateway import running_gateway, stop_gateway  # noqa: E402

_serve = fast_lane(cast(Application, django_application), settings.MAX_BODY_BYTES)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return await _lifespan(receive, send)
    return await _serve(scope, receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    await receive()
    gateway = await sync_to_async(running_gateway)()
    await gateway.admission.start()
    shipper = Shipper(gateway.journal)
    shipper.start()
    _calm_garbage_collector()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    # The server has drained: the last call is closed, so this ships all that is left.
    await sync_to_async(shipper.stop)()
    await gateway.aclose()
    stop_gateway()
    await send({"type": "lifespan.shutdown.complete"})


def _calm_garbage_collector() -> None:
    """What was imported is never garbage: don't walk it again and again under load."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
