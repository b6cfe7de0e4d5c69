"""Set-up that is safe to repeat at every start: an admin user, the config file, else a demo."""

import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import transaction

from routing import gateway_keys
from routing.config import loader
from routing.models import ApiKey, ModelRoute, Provider, RouteTarget

DEMO = "demo"
DEMO_MODEL = "demo-echo"


@dataclass(slots=True)
class FirstRun:
    """What this start made; passwords and keys are in here and nowhere else."""

    admin_password: str = ""
    demo_key: str = ""
    config_lines: list[str] = field(default_factory=list)


@transaction.atomic  # a start that is broken off leaves no password that nobody was shown
def set_up() -> FirstRun:
    """Raises routing.config.loader.ConfigInvalid where LITELLM_CONFIG can't be loaded."""
    made = FirstRun(admin_password=_admin_user())
    if settings.LITELLM_CONFIG:
        made.config_lines = loader.load_file(Path(settings.LITELLM_CONFIG)).lines()
    elif settings.EMBEDDED and not Provider.objects.exists():
        made.demo_key = _demo()
    return made


def _admin_user() -> str:
    """The new admin's password, "" where there is an admin already."""
    users = get_user_model().objects
    if users.filter(is_superuser=True).exists():
        return ""
    password = secrets.token_urlsafe(12)
    users.create_superuser(username="admin", email="", password=password)
    return password


def _demo() -> str:
    provider = Provider.objects.create(
        slug=DEMO,
        name="Demo (echoes what you send; delete me)",
        base_url=demo_url(free_port(settings.PORT + 1)),
    )
    route = ModelRoute.objects.create(name=DEMO_MODEL)
    RouteTarget.objects.create(route=route, provider=provider, upstream_model="echo")
    key = ApiKey.objects.filter(name=DEMO).first() or ApiKey(name=DEMO)
    plaintext = gateway_keys.generate()
    key.set_plaintext(plaintext)
    key.save()
    return plaintext


def demo_url(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1"


def demo_port() -> int | None:
    """Where the demo provider must listen at this start; None where it was deleted or pointed elsewhere."""
    provider = Provider.objects.enabled().filter(slug=DEMO, base_url__startswith="http://127.0.0.1:").first()
    if provider is None:
        return None
    wanted = int(provider.base_url.split(":")[2].split("/")[0])
    port = free_port(wanted)
    if port != wanted:
        provider.base_url = demo_url(port)
        provider.save()
    return port


def free_port(preferred: int) -> int:
    """The preferred port, or any free one where it is taken."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")
