"""Where the demo provider is: its row names no port, as each web process serves it on one of its own."""

from pathlib import Path

from django.conf import settings

DEMO_URL = "http://demo.invalid/v1"
"""What the row says; a name that never resolves (RFC 6761), so that it reaches nobody else."""


class _Here:
    url = ""


def serve_at(url: str) -> None:
    """This process serves it there. Told in a file to those that check providers in another process."""
    _Here.url = url
    file = Path(settings.DEMO_ADDRESS_FILE)
    new = file.with_suffix(".new")
    new.write_text(url)
    new.replace(file)


def called_at(base_url: str) -> str:
    """The URL under which a provider is called: as its row says, but for the demo provider's."""
    url = base_url.rstrip("/")
    return _served_at() or url if url == DEMO_URL else url


def _served_at() -> str:
    if _Here.url:
        return _Here.url
    try:
        return Path(settings.DEMO_ADDRESS_FILE).read_text()
    except FileNotFoundError:
        return ""
