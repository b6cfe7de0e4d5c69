"""The database -> the text of a file that recreates it under the same ENCRYPTION_KEYS."""

import re
from typing import Any

import yaml

from routing import secret_headers
from routing.config import fallback_rows
from routing.config.environment import escape_all
from routing.config.fields import dump_fields
from routing.config.keys import ENCRYPTED
from routing.models import ApiKey, GatewaySettings, ModelRoute, Provider, RouteTarget, Team

HEAD = """\
# Written by `manage.py dump_config`; `manage.py load_config` reads it.
# Credentials are encrypted: the file loads only where ENCRYPTION_KEYS has the key they were encrypted under.
"""


_DURATIONS = {"day": "1d", "week": "7d", "month": "1mo"}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # Line breaks of Unicode would come back as blanks; only in double quotes are they escaped.
    style = '"' if re.search("[\x85\u2028\u2029\ufeff]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def dump() -> str:
    document: dict[str, Any] = {"model_list": [_entry(row) for row in _targets()]}
    if lists := fallback_rows.dump():
        document["router_settings"] = lists
    document["switchstand"] = escape_all(_own_section())
    return HEAD + yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _targets() -> Any:
    return RouteTarget.objects.select_related("route", "provider").order_by(
        "route__name", "priority", "-weight", "pk"
    )


def _entry(row: RouteTarget) -> dict[str, Any]:
    words = {
        "model": escape_all(f"{row.provider.slug}/{row.upstream_model}"),
        "weight": row.weight,
        "order": row.priority,
        "rpm": row.rpm,
        "tpm": row.tpm,
        "max_parallel_requests": row.parallel,
        "max_budget": _plain(row.budget_usd),
        "budget_duration": _DURATIONS.get(row.budget_period),
        "input_cost_per_token": _per_token(row.input_price),
        "output_cost_per_token": _per_token(row.output_price),
        "cache_read_input_token_cost": _per_token(row.cached_input_price),
        "cache_creation_input_token_cost": _per_token(row.cache_write_price),
        "cache_creation_input_token_cost_above_1hr": _per_token(row.cache_write_1h_price),
        "output_cost_per_reasoning_token": _per_token(row.reasoning_price),
        "input_cost_per_audio_token": _per_token(row.audio_input_price),
        "output_cost_per_audio_token": _per_token(row.audio_output_price),
        "input_cost_per_image_token": _per_token(row.image_input_price),
        "output_cost_per_image_token": _per_token(row.image_output_price),
        "input_cost_per_request": _plain(row.request_price),
        "tags": escape_all(row.tags) or None,
    }
    # LiteLLM has no word for these: it keeps what stands in model_info, and goes by none of it.
    info = {"canary_percent": row.canary_percent, "shadow_percent": row.shadow_percent}
    entry = {"model_name": escape_all(row.route.name), "litellm_params": _said(words)}
    return entry | ({"model_info": _said(info)} if _said(info) else {})


def _said(words: dict[str, Any]) -> dict[str, Any]:
    return {word: value for word, value in words.items() if value is not None}


def _plain(amount: Any) -> str | None:
    return None if amount is None else format(amount.normalize(), "f")


def _routes() -> Any:
    return ModelRoute.objects.select_related("over_limit_route").order_by("name")


def _per_token(per_million: Any) -> float | None:
    # 14 digits at most, which a float holds exactly enough to be written as they are.
    return None if per_million is None else float(per_million.scaleb(-6))


def _own_section() -> dict[str, Any]:
    section: dict[str, Any] = {"complete": True}
    if (row := GatewaySettings.objects.first()) is not None:
        section["gateway_settings"] = dump_fields(row)
    return section | {
        "providers": {row.slug: _provider(row) for row in Provider.objects.order_by("slug")},
        "routes": {
            row.name: _route(row)
            for row in ModelRoute.objects.select_related("over_limit_route").order_by("name")
        },
        "teams": {row.slug: dump_fields(row, "slug") for row in Team.objects.order_by("slug")},
        "keys": {row.name: _key(row) for row in ApiKey.objects.select_related("team").order_by("name")},
    }


def _provider(row: Provider) -> dict[str, Any]:
    found = dump_fields(row, "slug")
    if row.encrypted_api_key:
        found["api_key"] = f"{ENCRYPTED}{row.encrypted_api_key}"
    if secret_headers.split(row.extra_headers)[1]:
        row.headers = row.headers  # what a bulk write left in the plain ones is encrypted on its way out
    found.pop("extra_headers", None)
    if row.extra_headers:
        found["extra_headers"] = row.extra_headers
    if row.encrypted_headers:
        found["encrypted_headers"] = f"{ENCRYPTED}{row.encrypted_headers}"
    return found


def _route(row: ModelRoute) -> dict[str, Any]:
    found = dump_fields(row, "name")
    if row.over_limit_route is not None:
        found["over_limit_route"] = row.over_limit_route.name
    disabled = [
        f"{target.provider.slug}/{target.upstream_model}"
        for target in _targets().filter(route=row, enabled=False)
    ]
    return found | ({"disabled_targets": disabled} if disabled else {})


def _key(row: ApiKey) -> dict[str, Any]:
    found: dict[str, Any] = {"prefix": row.prefix, "sha256": row.key_hash}
    if row.team:
        found["team"] = row.team.slug
    if routes := sorted(row.allowed_routes.values_list("name", flat=True)):
        found["allowed_routes"] = routes
    elif row.restricted:
        found["restricted"] = True  # its routes are deleted: it may use none, not all
    return found | dump_fields(row, "name")
