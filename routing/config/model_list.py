"""`model_list`: each entry is one target of the route that it names."""

from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError

from routing.config import known_providers, reasons, values
from routing.config.budget_periods import read_budget
from routing.config.keys import read_credential
from routing.config.plan import PlannedRow, Untaken
from routing.config.section import Section
from routing.config.values import ABSENT, Bad
from routing.models.fields import validate_base_url
from routing.models.route import name_validator

REQUEST_PARAMETERS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "stop",
    "seed",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "user",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "stream_options",
    "reasoning_effort",
    "verbosity",
    "thinking",
    "modalities",
    "prediction",
    "dimensions",
    "encoding_format",
    "voice",
    "service_tier",
    "store",
    "safety_identifier",
    "prompt_cache_key",
    "do_sample",
)
"""Fields of a request that become the route's default parameters."""

_PRICES = {
    "input_cost_per_token": "input_price",
    "output_cost_per_token": "output_price",
    "cache_read_input_token_cost": "cached_input_price",
    "cache_creation_input_token_cost": "cache_write_price",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h_price",
    "output_cost_per_reasoning_token": "reasoning_price",
    "input_cost_per_audio_token": "audio_input_price",
    "output_cost_per_audio_token": "audio_output_price",
    "input_cost_per_image_token": "image_input_price",
    "output_cost_per_image_token": "image_output_price",
    "input_cost_per_request": "request_price",
}
"""LiteLLM's words, all for one token but the last."""
_LIMITS = {"rpm": "rpm", "tpm": "tpm", "max_parallel_requests": "parallel"}
_LONGEST_NAME = 200


@dataclass(slots=True, kw_only=True)
class Entry:
    path: str
    route: str
    prefix: str  # "" where the model has none
    upstream_model: str
    base_url: Any  # "" where the entry says nothing
    api_key: Any  # a Credential, or ABSENT
    key_reference: str  # tells keys apart whose environment variables aren't set
    headers: dict[str, str]
    target: PlannedRow
    provider: PlannedRow
    timeout: Any
    stream_timeout: Any
    parameters: dict[str, Any]
    paths: dict[str, str]


class Unusable(Exception):
    """An entry that can't be served; what is wrong has been reported."""


@dataclass(slots=True)
class ModelList:
    entries: list[Entry]
    not_taken: list[Untaken]


def read(root: Section) -> ModelList:
    found = ModelList([], [])
    for section in root.sections("model_list"):
        try:
            found.entries.append(_entry(section))
        except Unusable:
            found.not_taken.append(_untaken(section))
    listed = root.raw("model_list")
    if isinstance(listed, list) and any(not isinstance(item, dict) for item in listed):
        found.not_taken.append(Untaken("", ""))
    return found


def _untaken(section: Section) -> Untaken:
    """As far as its text says what it is."""
    model = section.section("litellm_params").read("model", values.text)
    return Untaken(_name(section), model if isinstance(model, str) else "")


def _name(section: Section) -> Any:
    found = section.read("model_name", values.text)
    return found.strip() if isinstance(found, str) else ""


def _entry(section: Section) -> Entry:
    route = _route(section)
    parameters, info = section.section("litellm_params"), section.section("model_info")
    if section.raw("litellm_params") is ABSENT:
        _refuse(section, "litellm_params", "is missing", "write at least `litellm_params: {model: ...}`")
    entry = _complete_entry(section, route, _needed(parameters, "model"), parameters, info)
    parameters.finish(reasons.MODEL_PARAMETERS)
    info.finish(dict.fromkeys(info.names(), reasons.MODEL_INFO))
    section.finish()
    return entry


def _refuse(section: Section, name: str, reason: str, remedy: str) -> Any:
    section.notes.say(section.at(name), f"{reason}; this entry is left out", remedy)
    raise Unusable


def _needed(section: Section, name: str) -> str:
    value = section.read(name, values.text)
    if value is ABSENT or value == "":
        _refuse(section, name, "is missing", "write it")
    if isinstance(value, Bad):
        _refuse(section, name, value.reason, value.remedy)
    return str(value)


def _route(section: Section) -> str:
    name = _needed(section, "model_name").strip()
    try:
        name_validator(name)
    except ValidationError as error:
        _refuse(section, "model_name", error.messages[0].rstrip("."), "choose another name")
    if len(name) > _LONGEST_NAME:
        _refuse(section, "model_name", f"has more than {_LONGEST_NAME} characters", "choose a shorter name")
    return name


def _complete_entry(section: Section, route: str, model: str, parameters: Section, info: Section) -> Entry:
    prefix, upstream_model = _split(model, parameters.text("custom_llm_provider"))
    _check_model(parameters, route, upstream_model)
    name_of_url, base_url = _address(parameters, prefix)
    if not prefix and not base_url:
        prefix = known_providers.prefix_of_bare(model)
    raw_key = parameters.raw("api_key")
    return Entry(
        path=section.path,
        route=route,
        prefix=prefix,
        upstream_model=upstream_model,
        base_url=base_url,
        api_key=read_credential(parameters),
        key_reference=raw_key if isinstance(raw_key, str) else "",
        headers=_headers(parameters),
        target=_target(section, parameters, info),
        provider=_provider(parameters),
        timeout=parameters.get("timeout", values.decimal),
        stream_timeout=parameters.get("stream_timeout", values.decimal),
        parameters=_request_parameters(parameters),
        paths={
            "model": parameters.at("model"),
            "route": section.at("model_name"),
            "base_url": parameters.at(name_of_url),
            "api_key": parameters.at("api_key"),
            "timeout": parameters.at("timeout"),
            "stream_timeout": parameters.at("stream_timeout"),
        },
    )


def _check_model(parameters: Section, route: str, model: str) -> None:
    if not model:
        _refuse(parameters, "model", "names no model", "write it as PROVIDER/MODEL")
    if len(model) > _LONGEST_NAME:
        _refuse(parameters, "model", f"has more than {_LONGEST_NAME} characters", "write the model's name")
    if "*" in model and not route.endswith("*"):
        _refuse(
            parameters,
            "model",
            "has a *, and its model_name has none",
            "end both with a *, or name one model",
        )


def _address(parameters: Section, prefix: str) -> tuple[str, str]:
    """(the word below which it stands, "" or the address)"""
    other_name = parameters.raw("api_base") is ABSENT and parameters.raw("base_url") is not ABSENT
    name = "base_url" if other_name else "api_base"
    found = parameters.read(name, values.text)
    if isinstance(found, Bad):
        _refuse(parameters, name, found.reason, found.remedy)
    if found is ABSENT or not found.strip():
        return name, ""
    address = found.strip().rstrip("/")
    try:
        validate_base_url(address)
    except ValidationError as error:
        _refuse(parameters, name, error.messages[0].rstrip("."), "correct the address")
    return name, known_providers.with_version(prefix, address)


def _split(model: str, provider: Any) -> tuple[str, str]:
    if provider is not ABSENT and provider:
        return provider, model.removeprefix(f"{provider}/")
    prefix, slash, rest = model.partition("/")
    return (prefix, rest) if slash else ("", model)


def _target(section: Section, parameters: Section, info: Section) -> PlannedRow:
    row = PlannedRow(parameters.path, paths={"upstream_model": parameters.at("model")})
    for word, name in _LIMITS.items():
        _smallest(row, name, word, (parameters, info, section))
    row.take("weight", parameters, "weight", values.decimal)
    row.take("priority", parameters, "order", values.decimal)
    row.take("tags", parameters, "tags", values.texts)
    for word in ("canary_percent", "shadow_percent"):
        row.take(word, info, word, values.decimal)
    read_budget(row, parameters, "max_budget", "budget_duration")
    for where in (parameters, info):
        _blocked(row, where)
    for word, name in _PRICES.items():
        at = info if parameters.raw(word) is ABSENT and info.raw(word) is not ABSENT else parameters
        row.take(name, at, word, values.decimal if name == "request_price" else _per_million)
    return row


def _smallest(row: PlannedRow, name: str, word: str, places: tuple[Section, ...]) -> None:
    """A limit may stand in three places; the smallest holds, and one that can't be read closes the target."""
    for section in places:
        found = section.read(word, values.decimal)
        if isinstance(found, Bad):
            row.bad.setdefault(name, found)
            row.paths[name] = section.at(word)
        elif found is not ABSENT and name not in row.bad and found < row.values.get(name, found + 1):
            row.say(name, found, section.at(word))
    if name in row.bad:
        row.values.pop(name, None)


def _blocked(row: PlannedRow, section: Section) -> None:
    found = section.read("blocked", values.flag)
    if found is True:
        row.closed = True
        section.notes.say(
            section.at("blocked"),
            "the target is loaded disabled",
            "take it out and load the file again: then it is enabled",
        )
    elif isinstance(found, Bad):
        row.bad["enabled"] = found
        row.paths["enabled"] = section.at("blocked")


def _per_million(per_token: Any) -> Any:
    found = values.decimal(per_token)
    return found if isinstance(found, Bad) else found.scaleb(6).normalize()


def _provider(parameters: Section) -> PlannedRow:
    row = PlannedRow(parameters.path)
    row.take("api_version", parameters, "api_version", values.text)
    for word in ("num_retries", "max_retries"):
        row.take("retries", parameters, word, values.decimal)
    return row


def _headers(parameters: Section) -> dict[str, str]:
    headers: dict[str, str] = {}
    for word in ("headers", "extra_headers"):
        if (found := parameters.mapping(word)) is not ABSENT:
            headers |= found
    if (organization := parameters.text("organization")) is not ABSENT:
        headers["OpenAI-Organization"] = organization
    return headers


def _request_parameters(parameters: Section) -> dict[str, Any]:
    found = {name: parameters.tree(name) for name in REQUEST_PARAMETERS}
    found = {name: value for name, value in found.items() if value is not ABSENT}
    extra_body = parameters.mapping("extra_body")
    return found if extra_body is ABSENT else found | extra_body
