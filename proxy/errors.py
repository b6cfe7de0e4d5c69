"""Every error that a client can see; docs/errors.md is made from these classes.

A message is safe to show: it names the field and what is allowed, never a credential.
"""

from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec

PASSING = (408, 429, 503)
"""Statuses of refusals that pass by themselves."""
QUOTA = "insufficient_quota"


class GatewayError(Exception):
    """The base of all; raised as such only where our own code failed."""

    status: int = 500
    type: ClassVar[str] = "api_error"
    code: str = "internal_error"
    gateway_code: str = "INTERNAL_ERROR"
    cause: ClassVar[str] = "the gateway itself failed"
    said: str = ""  # the provider's own words, for admins
    default_message: ClassVar[str] = (
        "The gateway failed to handle this request. The request id helps to find out why."
    )

    def __init__(
        self,
        message: str = "",
        *,
        param: str | None = None,
        code: str = "",
        provider: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message or self.default_message)
        self.message = message or self.default_message
        self.param = param
        self.provider = provider
        self.retry_after = retry_after  # seconds
        if code:
            self.code = code

    @property
    def retry_mends(self) -> bool:
        """Whether the same request may fare better later. Of answers of providers nobody knows."""
        return type(self) is GatewayError or self.status in PASSING

    def body(self, request_id: str) -> bytes:
        """The error object of the API, as JSON."""
        return msgspec.json.encode({"error": self.fields(request_id)})

    def event(self, request_id: str) -> bytes:
        """The same object as the last event of a stream that had begun."""
        return b"data: " + self.body(request_id) + b"\n\n"

    def fields(self, request_id: str) -> dict[str, Any]:
        return {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
            "gateway_code": self.gateway_code,
            "status_code": self.status,
            "provider": self.provider,
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "request_id": request_id,
        }


class InvalidRequest(GatewayError):
    status, type, code, gateway_code = 400, "invalid_request_error", "invalid_value", "VALIDATION_ERROR"
    cause = "malformed JSON, missing or empty messages, a message without role or content, a bad header"


class InvalidApiKey(GatewayError):
    status, type, code, gateway_code = 401, "authentication_error", "invalid_api_key", "INVALID_API_KEY"
    cause = "no key, an unknown, expired or revoked key"


class AccessForbidden(GatewayError):
    status, type, code, gateway_code = 403, "permission_error", "model_not_allowed", "ACCESS_FORBIDDEN"
    cause = "the key may not use the model or the provider"


class ModelNotFound(GatewayError):
    status, type, code, gateway_code = 404, "not_found_error", "model_not_found", "MODEL_NOT_AVAILABLE"
    cause = "unknown model"


class EndpointNotFound(GatewayError):
    status, type, code, gateway_code = 404, "not_found_error", "unknown_endpoint", "NOT_FOUND"
    cause = "a path that is not an endpoint"


class EndpointPlanned(GatewayError):
    status, type, code, gateway_code = 501, "invalid_request_error", "not_implemented", "NOT_FOUND"
    cause = "an endpoint of a release to come; in the shape that its clients read"
    shape: str = "openai"

    def body(self, request_id: str) -> bytes:
        fields = self.fields(request_id)
        if self.shape == "gemini":
            fields |= {"code": self.status, "status": "UNIMPLEMENTED"}
        head = {"type": "error"} if self.shape == "anthropic" else {}
        return msgspec.json.encode(head | {"error": fields})


class MethodNotAllowed(GatewayError):
    status, type, code, gateway_code = 405, "invalid_request_error", "method_not_allowed", "VALIDATION_ERROR"
    cause = "a method that the endpoint doesn't have"


class RequestTimeout(GatewayError):
    status, type, code, gateway_code = 408, "timeout_error", "request_timeout", "TIMEOUT"
    cause = (
        "the headers did not come within HEADER_SECONDS, "
        "or the body brought less than 500 bytes a second over BODY_SECONDS"
    )
    default_message = "The request did not arrive in time."


class RequestTooLarge(GatewayError):
    status, type, code, gateway_code = 413, "invalid_request_error", "request_too_large", "VALIDATION_ERROR"
    cause = "a body over MAX_BODY_BYTES, or of a page over PAGE_BODY_BYTES"

    @classmethod
    def over(cls, limit: int) -> "RequestTooLarge":
        return cls(f"The body is larger than the {limit:,} bytes allowed.")


class UrlTooLong(GatewayError):
    status, type, code, gateway_code = 414, "invalid_request_error", "url_too_long", "VALIDATION_ERROR"
    cause = "a URL over a quarter of HEAD_BYTES"


class UnsupportedCoding(GatewayError):
    status, type, gateway_code = 415, "invalid_request_error", "VALIDATION_ERROR"
    code = "unsupported_content_encoding"
    cause = "a body in another content coding than gzip, deflate, br or zstd, or in several"
    allowed: ClassVar[str] = "one of gzip, deflate, br and zstd, or none"


class UpgradeRefused(GatewayError):
    status, type, code, gateway_code = 426, "invalid_request_error", "no_websockets", "VALIDATION_ERROR"
    cause = "a WebSocket handshake: there is none here, the same endpoints answer over HTTP"
    default_message = "There are no WebSockets here: send the request over HTTP, streams come as events."


class HeadTooLarge(GatewayError):
    status, type, code, gateway_code = 431, "invalid_request_error", "headers_too_large", "VALIDATION_ERROR"
    cause = "headers or trailers over HEAD_BYTES, or more than HEAD_LINES of them"


class RateLimited(GatewayError):
    status, type, code, gateway_code = 429, "rate_limit_error", "rate_limit_exceeded", "RATE_LIMIT_ERROR"
    cause = "own request, token, parallel or budget limit; insufficient_quota for a budget"
    rate_limits: Any = (None, None)  # for the x-ratelimit headers

    @property
    def retry_mends(self) -> bool:
        return self.code != QUOTA


class PriceUnknown(RateLimited):
    status, type, code = 503, "service_unavailable_error", "price_unknown"
    gateway_code = "SERVICE_UNAVAILABLE"
    cause = "a budget applies, and the price of what would serve the request is unknown"

    @property
    def retry_mends(self) -> bool:
        return False


class UpstreamError(GatewayError):
    """Faults of providers."""

    status, type, code, gateway_code = 502, "upstream_error", "upstream_error", "UPSTREAM_ERROR"
    retry_mends = True
    cause = "upstream 5xx, reset, malformed answer or wrong address, after all attempts"
    worth_a_retry: bool = True  # at the same target
    default_message = "The provider failed to answer."


class UpstreamRejected(UpstreamError):
    """The caller's fault as the provider sees it: its status and message are kept."""

    status, type, code, gateway_code = 400, "invalid_request_error", "upstream_rejected", "VALIDATION_ERROR"
    cause = "upstream 4xx that is the caller's fault: same status, the upstream's message and code"
    worth_a_retry = False
    others_may_take: bool = False  # targets of the same route, before the route's fallback lists

    def __init__(
        self, message: str, *, status: int, code: str = "", param: str | None = None, provider: str
    ) -> None:
        super().__init__(message, code=code, param=param, provider=provider)
        self.status = status
        if status == 404:
            self.gateway_code = ModelNotFound.gateway_code


class ContextWindowExceeded(UpstreamRejected):
    code = "context_length_exceeded"
    cause = "the request is too long for the model, and no route in its context list took it"


class ContentPolicyRefused(UpstreamRejected):
    code = "content_policy_violation"
    cause = "the provider refuses the content, and no route in its policy list took it"


class UpstreamRateLimited(UpstreamError):
    status, type, code, gateway_code = 429, "rate_limit_error", "upstream_rate_limited", "RATE_LIMIT_ERROR"
    cause = "upstream 429 from every target, with its Retry-After"
    told_wait: float | None = None  # seconds that the provider itself said to wait


class UpstreamUnpaid(UpstreamError):
    code = "upstream_unpaid"
    cause = "upstream 402, or as much in words: the gateway's account there is unpaid"
    worth_a_retry = False
    certain: bool = False  # else known from words alone, and no failure of the target until confirmed


class UpstreamAuthFailed(UpstreamError):
    code = "upstream_auth_failed"
    worth_a_retry = False
    cause = "upstream 401 or 403: the provider refuses the gateway's credential"


class NotReady(GatewayError):
    """Nobody can tell yet whether the request may be served: never a refusal that a client takes for good."""

    status, type, code = 503, "service_unavailable_error", "not_ready"
    gateway_code = "SERVICE_UNAVAILABLE"
    cause = "no routing table yet, or the settings of the key can't be read"
    default_message = "The gateway has not read its configuration yet: try again."

    def __init__(self, message: str = "", *, retry_after: float = 2) -> None:
        super().__init__(message, retry_after=retry_after)


class NoHealthyUpstream(GatewayError):
    status, type, code = 503, "service_unavailable_error", "no_healthy_upstream"
    gateway_code = "SERVICE_UNAVAILABLE"
    cause = "no healthy target, where the provider's setting refuses"


class LimitsUnavailable(GatewayError):
    status, type, code = 503, "service_unavailable_error", "limits_unavailable"
    gateway_code = "SERVICE_UNAVAILABLE"
    cause = (
        "limits can't be counted: Redis is away and LIMITS_WITHOUT_REDIS=closed, or a budget is unreadable"
    )


class BodiesInFlight(GatewayError):
    status, type, code = 503, "service_unavailable_error", "bodies_in_flight"
    gateway_code = "SERVICE_UNAVAILABLE"
    cause = "the gateway holds BODY_BYTES_IN_FLIGHT of request bodies, or the key a quarter while others wait"
    default_message = "The gateway holds as many bytes of requests as it may: try again."


class TooManyConnections(GatewayError):
    status, type, code = 503, "service_unavailable_error", "too_many_connections"
    gateway_code = "SERVICE_UNAVAILABLE"
    cause = "the gateway has CLIENT_CONNECTIONS, and none of them is idle"
    default_message = "The gateway has as many connections as it may: try again."


class JournalFull(GatewayError):
    status, type, code = 503, "service_unavailable_error", "journal_unavailable"
    gateway_code = "SERVICE_UNAVAILABLE"
    cause = "the call can't be written down: the disk is full and JOURNAL_WHEN_FULL=refuse"


class PoolExhausted(GatewayError):
    status, type, code = 503, "service_unavailable_error", "pool_exhausted"
    gateway_code = "CONNECTION_POOL_ERROR"
    cause = "no free connection to the provider within its queue timeout"


class UpstreamTimeout(UpstreamError):
    status, type, code, gateway_code = 504, "timeout_error", "upstream_timeout", "TIMEOUT"
    cause = "the deadline or a provider's time-out passed"
    worth_a_retry = False
    default_message = "The provider did not answer in time."


def outcome_of(error: GatewayError) -> str:
    """Of a call that got no answer, as its row has it."""
    if isinstance(error, UpstreamRejected):
        return "caller_error"
    if isinstance(error, UpstreamError):
        return "upstream_failed"
    return "failed" if type(error) is GatewayError else "refused"


def forget_history(error: BaseException) -> None:
    """Before an error is kept: the frames that it came through hold the call, and with it the body."""
    error.__traceback__ = error.__context__ = error.__cause__ = None


def with_gateway_code(error: UpstreamError, gateway_code: str) -> UpstreamError:
    """The same error under a dialect's own gateway code."""
    error.gateway_code = gateway_code
    return error


class Refusal(Exception):
    """The request is over: a door renders this as a JSON error."""

    def __init__(self, status: int, headers: bytes, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers
        self.body = body
