"""What the official clients are driven against: one model for each thing that a gateway can answer."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from routing.models import ModelRoute, Provider
from tests.factories import make_key, make_provider, make_route, make_target
from tests.upstream import Answer, FakeUpstream, completion, events

GLM = "z-ai/glm-4-flash"
OWN_ZAI_KEY = "zai-key-of-the-caller-0001"
STORED_ZAI_KEY = "zai-key-stored-0001"

REFUSAL = {"message": "max_tokens is too large: 9.", "code": "too_large", "param": "max_tokens"}
FAULTS = {
    "refused": Answer(status=400, body={"error": REFUSAL}),
    "conflicting": Answer(status=409, body={"error": REFUSAL}),
    "unprocessable": Answer(status=422, body={"error": REFUSAL}),
    "busy": Answer(status=429, headers={"retry-after": "7"}),
    "misconfigured": Answer(status=401),
    "failing": Answer(status=500),
    "slow": Answer(delay=30),
    "cut": Answer(chunks=events("Hel", done=False, finish=False), cut="after_chunks"),
}
"""Model and provider of the same name -> what that provider always answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Plaintext gateway keys."""

    app: str
    limited: str  # one request per minute
    restricted: str  # may use only the model "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A request that must fail, and as what: OpenAI's Python and Node clients name their errors alike."""

    name: str
    error: str
    status: int
    code: str
    gateway_code: str
    model: str = "gpt"
    key: str = "app"  # a field of Keys, or "unknown"
    messages: int = 1
    retry_after: str | None = None

    def job(self, keys: Keys) -> dict[str, Any]:
        """The same for a client in another process."""
        return asdict(self) | {"key": getattr(keys, self.key, "sk-unknown")}


FAILURES = [
    Failure(
        name="no_messages",
        error="BadRequestError",
        status=400,
        code="missing_field",
        gateway_code="VALIDATION_ERROR",
        messages=0,
    ),
    Failure(
        name="refused_by_the_provider",
        error="BadRequestError",
        status=400,
        code="too_large",
        gateway_code="VALIDATION_ERROR",
        model="refused",
    ),
    Failure(
        name="unknown_key",
        error="AuthenticationError",
        status=401,
        code="invalid_api_key",
        gateway_code="INVALID_API_KEY",
        key="unknown",
    ),
    Failure(
        name="forbidden_model",
        error="PermissionDeniedError",
        status=403,
        code="model_not_allowed",
        gateway_code="ACCESS_FORBIDDEN",
        key="restricted",
    ),
    Failure(
        name="unknown_model",
        error="NotFoundError",
        status=404,
        code="model_not_found",
        gateway_code="MODEL_NOT_AVAILABLE",
        model="none-such",
    ),
    Failure(
        name="conflict_at_the_provider",
        error="ConflictError",
        status=409,
        code="too_large",
        gateway_code="VALIDATION_ERROR",
        model="conflicting",
    ),
    Failure(
        name="unprocessable_for_the_provider",
        error="UnprocessableEntityError",
        status=422,
        code="too_large",
        gateway_code="VALIDATION_ERROR",
        model="unprocessable",
    ),
    Failure(
        name="provider_rate_limit",
        error="RateLimitError",
        status=429,
        code="upstream_rate_limited",
        gateway_code="RATE_LIMIT_ERROR",
        model="busy",
        retry_after="7",
    ),
    Failure(
        name="provider_refuses_our_credential",
        error="InternalServerError",
        status=502,
        code="upstream_auth_failed",
        gateway_code="UPSTREAM_ERROR",
        model="misconfigured",
    ),
    Failure(
        name="provider_fails",
        error="InternalServerError",
        status=502,
        code="upstream_error",
        gateway_code="UPSTREAM_ERROR",
        model="failing",
    ),
    Failure(
        name="no_target",
        error="InternalServerError",
        status=503,
        code="no_healthy_upstream",
        gateway_code="SERVICE_UNAVAILABLE",
        model="closed",
        retry_after="5",
    ),
    Failure(
        name="deadline",
        error="InternalServerError",
        status=504,
        code="upstream_timeout",
        gateway_code="TIMEOUT",
        model="slow",
    ),
]

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def create_routes(upstream: FakeUpstream, published: Callable[[], None]) -> Keys:
    """Providers, models and keys of the client tests, served by the live gateway."""
    for model in ("gpt", "gpt-3.5-turbo", "gpt-4o", "other", "calling", "calling-streamed"):
        _serve(upstream, model, make_route(name=model))
    for model, answer in FAULTS.items():
        _serve(upstream, model, make_route(name=model, deadline=0.6 if model == "slow" else 600))
        upstream.always(model, answer)
    _serve(upstream, "closed", make_route(name="closed"), enabled=False)
    zai = _provider(upstream, "z-ai", dialect="zai", api_key=STORED_ZAI_KEY, allow_caller_key=True)
    make_target(route=make_route(name=GLM), provider=zai, upstream_model="glm-4-flash")
    keys = Keys(
        app=make_key(name="app")[1],
        limited=make_key(name="limited", rpm=1)[1],
        restricted=make_key(name="restricted", allowed_routes=[ModelRoute.objects.get(name="other")])[1],
    )
    published()
    return keys


def _serve(upstream: FakeUpstream, slug: str, route: ModelRoute, *, enabled: bool = True) -> None:
    make_target(
        route=route, provider=_provider(upstream, slug), upstream_model=f"upstream-{slug}", enabled=enabled
    )


def _provider(upstream: FakeUpstream, slug: str, **values: Any) -> Provider:
    return make_provider(slug=slug, base_url=upstream.url(slug), retries=0, **values)


def tool_call(*, name: str = "get_weather", arguments: str = '{"city": "Bern"}') -> Answer:
    """A whole answer that calls a tool."""
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls"}
    return Answer(body=completion(choices=[choice]))


def streamed_tool_call() -> Answer:
    """A stream that calls a tool, its arguments cut in two."""
    opening = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": [{"index": 0} | opening]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Bern"}'}}]},
    ]
    return Answer(chunks=[*(event(delta) for delta in deltas), event({}, "tool_calls"), b"data: [DONE]\n\n"])


def event(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    """One event of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "m"}
    return b"data: " + json.dumps(common | {"choices": [choice]}).encode() + b"\n\n"
