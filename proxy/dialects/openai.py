"""OpenAI chat completions, and the many APIs that follow them (platform.openai.com/docs/api-reference)."""

import re
from typing import Any

import msgspec

from proxy.dialects.base import MalformedAnswer
from proxy.errors import (
    ContentPolicyRefused,
    ContextWindowExceeded,
    GatewayError,
    InvalidApiKey,
    UpstreamAuthFailed,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
)
from proxy.reported_usage import ReportedUsage
from proxy.transports.base import RequestHead
from proxy.usage import Usage
from proxy.version import USER_AGENT
from routing.table import ProviderEntry

LONGEST_MESSAGE = 2000  # characters kept of an upstream's error message


_TOO_LONG = re.compile(
    r"maximum context length|context (length|window)|prompt is too long|too many (input )?tokens"
    r"|input is too long|reduce the length of the (messages|prompt)",
    re.IGNORECASE,
)
_REFUSED = re.compile(r"content (management )?policy|content filter|safety system", re.IGNORECASE)


class _Answer(msgspec.Struct):
    usage: ReportedUsage | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


_answer = msgspec.json.Decoder(_Answer)


class OpenAIDialect:
    name = "openai"
    failure_code = UpstreamError.gateway_code
    """gateway_code of faults that are neither the caller's nor the gateway's."""
    context_codes = frozenset({"context_length_exceeded", "context_window_exceeded"})
    policy_codes = frozenset({"content_policy_violation", "content_filter", "moderation_blocked"})

    def head(self, provider: ProviderEntry, credential: str) -> RequestHead:
        return RequestHead(f"{provider.base_url}/chat/completions", self.headers(provider, credential))

    def headers(self, provider: ProviderEntry, credential: str) -> list[tuple[str, str]]:
        common = {"content-type": "application/json", "accept-encoding": "identity", "user-agent": USER_AGENT}
        own = {name.lower(): value for name, value in (*self.dialect_headers(provider), *provider.headers)}
        key = {"authorization": f"Bearer {credential}"} if credential else {}
        return list((common | own | key).items())

    def dialect_headers(self, provider: ProviderEntry) -> list[tuple[str, str]]:
        return []

    def read_answer(self, body: bytes) -> Usage | None:
        try:
            answer = _answer.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise MalformedAnswer("answered 200 with malformed JSON") from None
        if bytes(answer.error) != b"null":
            raise MalformedAnswer("answered 200 with an error in the body")
        return answer.usage.tokens() if answer.usage else None

    def error(
        self, provider: ProviderEntry, status: int, body: bytes, retry_after: float | None, own_key: bool
    ) -> GatewayError:
        found = error_fields(body)
        slug = provider.slug
        if status in (401, 403):
            return self._refused_credential(slug, status, own_key)
        if status == 429:
            return UpstreamRateLimited(
                f"{slug} is rate limited.",
                provider=slug,
                retry_after=retry_after if retry_after is not None else 1,
            )
        if status == 408:
            return UpstreamTimeout(f"{slug} answered 408: it timed out.", provider=slug)
        if 400 <= status < 500:
            message = found["message"] or f"{slug} refused the request with status {status}."
            kind = self.kind_of_rejection(found["code"], message)
            return kind(message, status=status, code=found["code"], param=found["param"], provider=slug)
        failure = UpstreamError(f"{slug} failed with status {status}.", provider=slug)
        failure.gateway_code = self.failure_code
        return failure

    def kind_of_rejection(self, code: str, message: str) -> type[UpstreamRejected]:
        """Providers name the same causes differently; many only in words."""
        if code in self.context_codes or _TOO_LONG.search(message):
            return ContextWindowExceeded
        if code in self.policy_codes or _REFUSED.search(message):
            return ContentPolicyRefused
        return UpstreamRejected

    def _refused_credential(self, slug: str, status: int, own_key: bool) -> GatewayError:
        if own_key:
            return InvalidApiKey(
                f"{slug} refuses the key in x-litellm-api-key.", param="x-litellm-api-key", provider=slug
            )
        failure = UpstreamAuthFailed(
            f"{slug} refuses the gateway's credential (status {status}): an admin must mend it.",
            provider=slug,
        )
        failure.gateway_code = self.failure_code
        return failure


def error_fields(body: bytes) -> dict[str, Any]:
    """message, code and param of an error body, whichever of the usual shapes it has."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        document = None
    inner = document.get("error", document) if isinstance(document, dict) else None
    if isinstance(inner, str):
        inner = {"message": inner}
    if not isinstance(inner, dict):
        inner = {}
    return {name: _short_text(inner.get(name)) for name in ("message", "code")} | {
        "param": _short_text(inner.get("param")) or None
    }


def _short_text(value: Any) -> str:
    return (
        str(value)[:LONGEST_MESSAGE] if isinstance(value, str | int) and not isinstance(value, bool) else ""
    )
