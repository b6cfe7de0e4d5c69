"""Writes the derived tables of docs/configuration-file.md: `python -m routing.config.file_doc`."""

from pathlib import Path
from typing import Any

import django

PATH = Path(__file__).resolve().parent.parent.parent / "docs" / "configuration-file.md"


def tables() -> dict[str, str]:
    """By the name that stands in the document's markers."""
    from routing.config import reasons
    from routing.models import ApiKey, GatewaySettings, ModelRoute, Provider, Team

    own = {
        "gateway_settings": _fields(GatewaySettings),
        "providers": _fields(Provider, "slug"),
        "routes": _fields(ModelRoute, "name"),
        "teams": _fields(Team, "slug"),
        "keys": _fields(ApiKey, "name"),
    }
    without_effect = {
        "at the top": reasons.ROOT,
        "litellm_params of an entry": reasons.MODEL_PARAMETERS,
        "general_settings": reasons.GENERAL,
        "router_settings": reasons.ROUTER,
        "litellm_settings": reasons.LITELLM,
        "litellm_params at the top": reasons.TOP_PARAMETERS,
    }
    rows = [
        f"| `{key}` | {place} | {reason} |"
        for place, keys in without_effect.items()
        for key, reason in keys.items()
    ]
    return own | {"without effect": "\n".join(["| key | where | why |", "|---|---|---|", *rows])}


def _fields(model: Any, identity: str = "") -> str:
    from routing.config.fields import config_fields

    rows = [_field(field) for field in config_fields(model, identity)]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def _field(field: Any) -> str:
    default = field.get_default()
    shown = "" if default in (None, "", [], {}) else f"`{str(default).lower()}`"
    if field.name not in ("base_url", "name") or shown:
        shown = shown or "none"
    meaning = str(field.help_text or field.verbose_name).replace("|", "\\|")
    choices = ", ".join(f"`{value}`" for value, _ in field.flatchoices if value)
    return f"| `{field.name}` | {shown or 'needed'} | {meaning}{f' One of {choices}.' if choices else ''} |"


def updated(text: str) -> str:
    """The document with its tables as they are now. Raises ValueError where a marker is missing."""
    for name, table in tables().items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        start = text.index(begin) + len(begin)
        text = f"{text[:start]}{table}\n{text[text.index(end, start) :]}"
    return text


if __name__ == "__main__":
    django.setup()
    PATH.write_text(updated(PATH.read_text()))
