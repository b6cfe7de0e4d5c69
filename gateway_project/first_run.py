"""Set-up that is safe to repeat at every start: an admin user, the config file, else a demo."""

import re
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from django.db import transaction

from routing import gateway_keys
from routing.config import loader
from routing.demo_provider import DEMO_URL
from routing.models import ApiKey, ModelRoute, Provider, RouteTarget

DEMO = "demo"
DEMO_NAME = "Demo (echoes what you send; delete me)"
DEMO_MODEL = "demo-echo"


@dataclass(slots=True)
class FirstRun:
    """What this start made; passwords and keys are in here and nowhere else."""

    admin_password: str = ""
    demo_key: str = ""
    config_lines: list[str] = field(default_factory=list)


def set_up() -> FirstRun:
    """Raises routing.config.loader.ConfigInvalid where LITELLM_CONFIG can't be loaded."""
    # First, and by itself: where it fails, there is no password that nobody was shown.
    lines = loader.load_file(Path(settings.LITELLM_CONFIG)).lines() if settings.LITELLM_CONFIG else []
    password = "" if _has_admin() else secrets.token_urlsafe(12)
    hashed = make_password(password) if password else ""  # slow: before the transaction
    with transaction.atomic():
        made = FirstRun(config_lines=lines)
        if password and not _has_admin():
            _users().create(username="admin", password=hashed, is_staff=True, is_superuser=True)
            made.admin_password = password
        _move_demo()
        if not settings.LITELLM_CONFIG and settings.EMBEDDED and not Provider.objects.exists():
            made.demo_key = _demo()
    return made


def _has_admin() -> bool:
    return _users().filter(is_superuser=True).exists()


def _users() -> Any:
    return get_user_model().objects


def _demo() -> str:
    provider = Provider.objects.create(
        slug=DEMO,
        name=DEMO_NAME,
        base_url=DEMO_URL,
    )
    route = ModelRoute.objects.create(name=DEMO_MODEL)
    RouteTarget.objects.create(route=route, provider=provider, upstream_model="echo")
    key = ApiKey.objects.filter(name=DEMO).first() or ApiKey(name=DEMO)
    plaintext = gateway_keys.generate()
    key.set_plaintext(plaintext)
    key.save()
    return plaintext


def _move_demo() -> None:
    """Once: the row of a release that gave the demo provider a port. A service of the user's own stays."""
    if settings.DEMO_ADDRESS_FILE.exists():
        return
    settings.DEMO_ADDRESS_FILE.touch()
    ours = Provider.objects.filter(slug=DEMO, name=DEMO_NAME, targets__upstream_model="echo").first()
    found = re.fullmatch(r"http://127\.0\.0\.1:(\d{1,5})/v1", ours.base_url) if ours else None
    if ours and found and not _listens(int(found[1])):
        ours.base_url = DEMO_URL
        ours.save()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
