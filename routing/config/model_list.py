"""`model_list`: each entry is one target of the route that it names."""

from dataclasses import dataclass
from typing import Any

from routing.config import reasons
from routing.config.keys import read_credential
from routing.config.plan import PlannedRow
from routing.config.section import ABSENT, Section

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
_PERIODS = {"1d": "day", "24h": "day", "7d": "week", "1w": "week", "30d": "month", "1mo": "month"}
_LIMITS = {"rpm": "rpm", "tpm": "tpm", "max_parallel_requests": "parallel"}


@dataclass(slots=True, kw_only=True)
class Entry:
    path: str
    route: str
    prefix: str  # "" where the model has none
    upstream_model: str
    base_url: Any  # "" where the entry says nothing, ABSENT where what it says was reported
    api_key: Any  # a Credential, or ABSENT
    key_reference: str  # tells keys apart whose environment variables aren't set
    headers: dict[str, str]
    target: PlannedRow
    provider: PlannedRow
    deadline: Any
    parameters: dict[str, Any]
    paths: dict[str, str]


def read(root: Section) -> list[Entry]:
    entries = [_entry(section) for section in root.sections("model_list")]
    return [entry for entry in entries if entry is not None]


def _entry(section: Section) -> Entry | None:
    route = section.needed_text("model_name")
    parameters, info = section.section("litellm_params"), section.section("model_info")
    model = ABSENT
    if section.raw("litellm_params") is ABSENT:
        section.problem("litellm_params", "is missing")
    elif isinstance(section.raw("litellm_params"), dict):
        model = parameters.needed_text("model")
    entry = _complete_entry(section.path, route, model, parameters, info)
    parameters.finish(reasons.MODEL_PARAMETERS)
    info.finish(dict.fromkeys(info.names(), reasons.MODEL_INFO))
    section.finish()
    return None if route is ABSENT or model is ABSENT else entry


def _complete_entry(path: str, route: Any, model: Any, parameters: Section, info: Section) -> Entry:
    prefix, upstream_model = _split(model, parameters.text("custom_llm_provider"))
    other_name = parameters.raw("api_base") is ABSENT and parameters.raw("base_url") is not ABSENT
    name_of_url = "base_url" if other_name else "api_base"
    base_url = "" if parameters.raw(name_of_url) is ABSENT else parameters.needed_text(name_of_url)
    raw_key = parameters.raw("api_key")
    return Entry(
        path=path,
        route=route,
        prefix=prefix,
        upstream_model=upstream_model,
        base_url=base_url if base_url is ABSENT else base_url.rstrip("/"),
        api_key=read_credential(parameters),
        key_reference=raw_key if isinstance(raw_key, str) else "",
        headers=_headers(parameters),
        target=_target(parameters, info),
        provider=_provider(parameters),
        deadline=parameters.number("timeout"),
        parameters=_request_parameters(parameters),
        paths={
            "model": parameters.at("model"),
            "route": f"{path}.model_name",
            "base_url": parameters.at(name_of_url),
            "api_key": parameters.at("api_key"),
            "timeout": parameters.at("timeout"),
        },
    )


def _split(model: str, provider: Any) -> tuple[str, str]:
    if provider is not ABSENT:
        return provider, str(model).removeprefix(f"{provider}/")
    prefix, slash, rest = str(model).partition("/")
    return (prefix, rest) if slash else ("", model)


def _target(parameters: Section, info: Section) -> PlannedRow:
    row = PlannedRow(parameters.path, paths={"upstream_model": parameters.at("model")})
    for word, name in _LIMITS.items():
        row.say(name, parameters.whole(word, low=1), parameters.at(word))
    row.say("weight", parameters.whole("weight"), parameters.at("weight"))
    row.say("priority", parameters.whole("order"), parameters.at("order"))
    row.say("tags", parameters.texts("tags"), parameters.at("tags"))
    for word in ("canary_percent", "shadow_percent"):
        row.say(word, info.number(word), info.at(word))
    row.say("budget_usd", parameters.decimal("max_budget"), parameters.at("max_budget"))
    row.say("budget_period", _period(parameters), parameters.at("budget_duration"))
    for word, name in _PRICES.items():
        section = info if parameters.raw(word) is ABSENT and info.raw(word) is not ABSENT else parameters
        value = section.decimal(word)
        row.say(name, value if name == "request_price" else _per_million(value), section.at(word))
    return row


def _period(parameters: Section) -> Any:
    word = parameters.text("budget_duration")
    if word is ABSENT or word in _PERIODS:
        return word if word is ABSENT else _PERIODS[word]
    allowed = ", ".join(_PERIODS)
    return parameters.problem("budget_duration", f"{word!r} is not one of {allowed} (calendar periods)")


def _per_million(per_token: Any) -> Any:
    return per_token if per_token is ABSENT else per_token.scaleb(6).normalize()


def _provider(parameters: Section) -> PlannedRow:
    row = PlannedRow(parameters.path)
    row.say("api_version", parameters.text("api_version"), parameters.at("api_version"))
    for word in ("num_retries", "max_retries"):
        row.say("retries", parameters.whole(word), parameters.at(word))
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
