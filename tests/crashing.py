"""A gateway with a fault: a request for the model `crash` fails where its key is at hand."""

from typing import Any

from django.apps import AppConfig
from django.http import HttpRequest, HttpResponse


class Crashing(AppConfig):
    """In INSTALLED_APPS by tests/crashing_settings.py."""

    name = "tests.crashing"
    label = "crashing"

    def ready(self) -> None:
        from proxy import engine

        engine.resolve = crash  # type: ignore[attr-defined]


def crash(call: Any) -> Any:
    sent = dict(call.incoming.headers)  # a local variable, and the text of the exception
    raise RuntimeError(f"no route for {sent} {call.incoming.body!r}")


def page(request: HttpRequest) -> HttpResponse:
    raise RuntimeError(f"no page for {dict(request.headers)} {request.GET} {request.body!r}")
