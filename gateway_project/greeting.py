"""What a start shows: one box, and what of it nobody but the one at the terminal may see."""

import os
import sys
from pathlib import Path
from typing import TextIO

from django.conf import settings
from django.core.management.base import OutputWrapper
from django.utils import timezone

from gateway_project.first_run import DEMO_MODEL, FirstRun

SECRETS_FILE = "first-run.txt"
RULE = "-" * 78
ONCE = "(shown once)"
CURL = """curl http://{host}:{port}/v1/chat/completions \\
  -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'"""


def box(made: FirstRun, output: TextIO | OutputWrapper) -> list[str]:
    """All that a newcomer needs. Secrets stand in it where `output` is a terminal, else in a file."""
    lines = [f"Ready:    {origin()}   (Ctrl-C ends it)", f"Admin:    {origin()}/admin/"]
    return [RULE, *lines, *_old(made), *secret_lines(made, output), RULE]


def secret_lines(made: FirstRun, output: TextIO | OutputWrapper) -> list[str]:
    """What this start made, once: for a terminal, or where to find it."""
    fresh = [*_new(made), *_try_it(made)]
    return fresh if output.isatty() or not fresh else [_kept(made, fresh)]


def _kept(made: FirstRun, fresh: list[str]) -> str:
    """Output that is no terminal is kept: by Docker, by systemd, by whoever collects their logs."""
    file = Path(settings.DATA_DIR) / SECRETS_FILE
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as out:
        os.fchmod(out.fileno(), 0o600)  # an earlier start may have made it
        lines = [line.removesuffix(f"   {ONCE}") for line in fresh]
        print(f"Made at {timezone.now():%Y-%m-%d %H:%M} UTC", *lines, "", sep="\n", file=out)
    what = " and ".join(name for name, value in _secrets(made).items() if value)
    return f"Secrets:  {what}: {file}   (only its owner can read it; delete it when read)"


def _secrets(made: FirstRun) -> dict[str, str]:
    return {"the password": made.admin_password, "a key with a curl line": made.demo_key}


def _new(made: FirstRun) -> list[str]:
    lines = []
    if made.admin_password:
        lines += ["User:     admin", f"Password: {made.admin_password}   {ONCE}"]
    if made.demo_key:
        lines.append(f"Key:      {made.demo_key}   {ONCE}")
    return lines


def _old(made: FirstRun) -> list[str]:
    """How to get anew what an earlier start made."""
    lines = []
    if not made.admin_password:
        lines.append(f"Password: forgot it? {manage()} changepassword admin")
    if not made.demo_key:
        lines.append(f"Key:      {manage()} create_key NAME prints a new one")
    return lines


def _try_it(made: FirstRun) -> list[str]:
    if not made.demo_key:
        return []
    curl = CURL.format(host=shown_host(), port=settings.PORT, key=made.demo_key, model=DEMO_MODEL)
    return ["", 'Try it (add "stream": true to stream):', "", curl]


def origin() -> str:
    return f"http://{shown_host()}:{settings.PORT}"


def shown_host() -> str:
    host = settings.HOST
    if host in ("127.0.0.1", "0.0.0.0", "::"):  # noqa: S104 compares only
        return "localhost"
    return f"[{host}]" if ":" in host else host


def manage() -> str:
    """How this very Python is called from here, as in .venv/bin/python manage.py."""
    python = os.path.relpath(sys.executable)
    return f"{sys.executable if python.startswith('..') else python} manage.py"
