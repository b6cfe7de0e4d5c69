"""Which provider a model_list entry means: its name, address and dialect."""

import copy
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from routing.models.provider import DIALECT_DEFAULTS

NAMES = {"openai": "OpenAI", "z-ai": "Z.ai", "zai": "Z.ai"}
ZAI_ROUTE: dict[str, Any] = {
    "max_messages": 50,
    "default_parameters": {"temperature": 0.7, "max_tokens": 1000},
}
"""What a new route with a Z.ai target starts with."""

OTHER_APIS = {
    "anthropic",
    "azure",
    "azure_ai",
    "bedrock",
    "cohere",
    "gemini",
    "huggingface",
    "replicate",
    "sagemaker",
    "vertex_ai",
    "watsonx",
}
"""Prefixes under which LiteLLM translates to an API that isn't OpenAI's."""

_ZAI_HOSTS = ("bigmodel.cn", "z.ai")


@dataclass(frozen=True, slots=True)
class Account:
    """What makes two entries the same provider."""

    name: str  # wanted slug
    base_url: str
    key: str = field(repr=False)  # tells keys apart: the key, or its reference; "" for none
    headers: str = field(repr=False)  # as JSON


def host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_zai(name: str, base_url: str) -> bool:
    host = host_of(base_url)
    ours = any(host == known or host.endswith(f".{known}") for known in _ZAI_HOSTS)
    return ours or name in ("z-ai", "zai")


def wanted_slug(prefix: str, base_url: str) -> str:
    """The prefix; without one, the name that goes with the host."""
    if slug := _slug(prefix):
        return slug
    host = host_of(base_url)
    if host == "api.openai.com":
        return "openai"
    return "z-ai" if is_zai("", base_url) else _slug(host)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("._-")[:64]


def starting_values(slug: str, wanted: str, base_url: str, dialect: str) -> dict[str, Any]:
    """What a new provider starts with where the file says nothing."""
    name = NAMES.get(wanted, wanted) + slug.removeprefix(wanted).replace("-", " ")
    values: dict[str, Any] = {"name": name, "dialect": dialect, "base_url": base_url}
    values |= copy.deepcopy(DIALECT_DEFAULTS.get(dialect, {}))
    if dialect == "zai":
        values["allow_caller_key"] = True
    return values


def is_version_of(base_url: str, version: str) -> bool:
    """Whether the address ends with this version already (https://.../paas/v4)."""
    return base_url.rstrip("/").endswith(f"/{version}")
