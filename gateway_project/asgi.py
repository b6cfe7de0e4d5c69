"""The ASGI application: Django, and what starts and ends with a web process.

Under `manage.py serve` proxy/doors/fast_lane.py takes data-plane requests before they come here; under any
other ASGI server they come here too, and are served by the DRF views.
"""

import gc
import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_project.settings")

import django

django.setup(set_prefix=False)

from asgiref.sync import sync_to_async  # noqa: E402 Django must be set up before its apps are imported
from django.conf import settings  # noqa: E402

from gateway_project.demo import Demo  # noqa: E402
from gateway_project.log_ins import DjangoHandler  # noqa: E402
from gateway_project.stop_signals import on_stop  # noqa: E402
from gateway_project.warm_up import warm_up  # noqa: E402
from proxy.doors.asgi import DATA_PLANE_PATHS, DataPlaneHandler  # noqa: E402
from proxy.doors.pages import BoundedPages  # noqa: E402
from proxy.gateway import running_gateway, stop_gateway  # noqa: E402

django_application = DjangoHandler()
data_plane = DataPlaneHandler()
pages = BoundedPages(django_application)


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return await _lifespan(receive, send)
    if scope["type"] == "http" and scope["path"] in DATA_PLANE_PATHS:
        return await data_plane(scope, receive, send)
    return await pages(scope, receive, send)


async def _lifespan(receive: Any, send: Any) -> None:
    await receive()
    demo = Demo()
    await demo.start()
    gateway = await sync_to_async(running_gateway)()
    await gateway.admission.start()
    await warm_up(gateway, django_application)
    gateway.warming.start()
    on_stop(gateway.drain, notice=settings.DRAIN_NOTICE_SECONDS)
    _calm_garbage_collector()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await gateway.aclose()
    stop_gateway()
    demo.stop()
    await send({"type": "lifespan.shutdown.complete"})


def _calm_garbage_collector() -> None:
    """What was imported is never garbage: don't walk it again and again under load."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
