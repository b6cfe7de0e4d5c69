"""System checks of settings that fit together badly."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register


@register(Tags.security)
def https_is_whole(**_: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    origins = [one for one in settings.CSRF_TRUSTED_ORIGINS if one.startswith("https:")]
    if origins and not settings.HTTPS:
        text = f"CSRF_TRUSTED_ORIGINS names {origins[0]}, but HTTPS is not true: cookies travel over http."
        found.append(Warning(text, hint="Set HTTPS=true.", id="switchstand.W001"))
    if settings.HTTPS and not settings.TRUSTED_PROXIES:
        text = "HTTPS is true, but TRUSTED_PROXIES is empty: no request counts as one over https."
        hint = "Set TRUSTED_PROXIES to the address of the proxy that ends TLS; without it there is no HSTS."
        found.append(Warning(text, hint=hint, id="switchstand.W002"))
    return found
