"""OpenAI chat completions, and the many APIs that follow them (platform.openai.com/docs/api-reference)."""

import re

from proxy.dialects.openai import answer
from proxy.dialects.openai.errors import ErrorFields, read_error, word_code
from proxy.dialects.words import Cause, found_words, is_shut_out, own_words
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
    UpstreamUnpaid,
)
from proxy.metering.usage import Usage
from proxy.transports.base import RequestHead
from proxy.version import USER_AGENT
from routing.table import ProviderEntry

PROVIDERS_FAULT = frozenset({407, 421, 424, 425, 498, 499})
"""4xx that tell of a proxy on the way, a wrong host, the provider's own dependencies or its capacity."""
MAY_BE_TOO_LONG = frozenset({400, 413, 422, 429})
WITH_MONEY_IN_WORDS = frozenset({400, 403, 412, 429})
_NO_ADDRESS = re.compile(
    r"\W*404\b.*not found|((page|resource|path|route|url) )?not[ _]found\W*$|invalid url"
    r"|(unknown|unrecognized) (request )?url|cannot (post|get) /|no (route|static resource)"
    r"|.*deployment for this resource",
    re.IGNORECASE | re.DOTALL,
)


class OpenAIDialect:
    name = "openai"
    failure_code = UpstreamError.gateway_code
    """gateway_code of faults that are neither the caller's nor the gateway's."""
    context_codes = frozenset({"context_length_exceeded", "context_window_exceeded"})
    policy_codes = frozenset({"content_policy_violation", "content_filter", "moderation_blocked"})
    unpaid_codes = frozenset({"insufficient_quota", "Arrearage", "exceeded_current_quota_error"})

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
        return answer.read_answer(body)

    def error(
        self,
        provider: ProviderEntry,
        status: int,
        body: bytes,
        retry_after: float | None,
        own_key: bool,
        request: bytes = b"",
    ) -> GatewayError:
        found = read_error(body)
        failure = self._failure(provider, status, found, retry_after, own_key, request)
        if found.known or not found.is_json:  # else it may be an answer, whose text is nobody's to log
            failure.said = found.message
        return failure

    def refusal(self, provider: ProviderEntry, body: bytes) -> GatewayError | None:
        found = read_error(body)
        if not found.known:  # no error, whatever it is: what it says is nobody's to judge
            return None
        if self._names(Cause.REFUSED, provider, found):
            failure = self._rejection(ContentPolicyRefused, provider.slug, 400, found)
        elif self._names(Cause.TOO_LONG, provider, found):
            failure = self._too_long(provider.slug, 400, found)
        else:
            return None
        failure.said = found.message
        return failure

    def _failure(
        self,
        provider: ProviderEntry,
        status: int,
        found: ErrorFields,
        retry_after: float | None,
        own_key: bool,
        request: bytes,
    ) -> GatewayError:
        slug = provider.slug
        shut_out = status in (401, 403) and is_shut_out(own_words(found.message))
        if not shut_out and self._names(Cause.REFUSED, provider, found):
            return self._rejection(ContentPolicyRefused, slug, status if status in (400, 403) else 400, found)
        if status == 402 or self._is_unpaid(provider, status, found, retry_after, request):
            return self._unpaid(provider, status, found, own_key)
        if status == 413 or (status in MAY_BE_TOO_LONG and self._names(Cause.TOO_LONG, provider, found)):
            return self._too_long(slug, status, found)
        if status == 429:
            wait = retry_after if retry_after is not None else 1
            return UpstreamRateLimited(f"{slug} is rate limited.", provider=slug, retry_after=wait)
        if status == 408:
            return UpstreamTimeout(f"{slug} answered 408: it timed out.", provider=slug)
        if (
            status >= 500
            or status < 400
            or status in PROVIDERS_FAULT
            or self._is_busy(provider, status, found)
        ):
            return self._fault(f"{slug} failed with status {status}.", slug)
        if status in (401, 403):
            return self._refused_credential(slug, status, own_key)
        if status == 405 or (status == 404 and _is_no_address(found)):
            return self._misplaced(slug, status)
        return self._rejection(UpstreamRejected, slug, status, found)

    def _names(self, cause: Cause, provider: ProviderEntry, found: ErrorFields) -> bool:
        """Providers name the same causes differently; many only in words."""
        codes = {Cause.TOO_LONG: self.context_codes, Cause.REFUSED: self.policy_codes}.get(cause, ())
        if found.code in codes or (cause is Cause.REFUSED and found.flagged):
            return True
        text = own_words(f"{found.message} {found.code} {found.kind}")
        return bool(found_words(cause, text, provider.words.get(cause, ())))

    def _is_unpaid(
        self,
        provider: ProviderEntry,
        status: int,
        found: ErrorFields,
        retry_after: float | None,
        request: bytes,
    ) -> bool:
        """Only in the error's own fields, and never in words of the request: in doubt it is not."""
        if status not in WITH_MONEY_IN_WORDS:
            return False
        if {found.code, found.kind} & self.unpaid_codes:
            return True
        if status == 429 and retry_after:  # who says when to come back speaks of a rate
            return False
        words = found_words(Cause.UNPAID, own_words(found.text), provider.words.get(Cause.UNPAID, ()))
        return bool(words) and words.lower().encode() not in request.lower()

    def _is_busy(self, provider: ProviderEntry, status: int, found: ErrorFields) -> bool:
        return status != 401 and self._names(Cause.BUSY, provider, found)

    def _rejection(
        self, kind: type[UpstreamRejected], slug: str, status: int, found: ErrorFields
    ) -> UpstreamRejected:
        message = found.message or f"{slug} refused the request with status {status}."
        code = word_code(found.code)
        return kind(message, status=status, code=code, param=found.param, provider=slug)

    def _too_long(self, slug: str, status: int, found: ErrorFields) -> UpstreamRejected:
        failure = self._rejection(ContextWindowExceeded, slug, status, found)
        # The account's or the place's limit, not the model's: another target of the route may take it.
        failure.others_may_take = status in (413, 429)
        return failure

    def _unpaid(
        self, provider: ProviderEntry, status: int, found: ErrorFields, own_key: bool
    ) -> GatewayError:
        slug = provider.slug
        if own_key:
            return self._rejection(UpstreamRejected, slug, status, found)
        failure = UpstreamUnpaid(
            f"{slug} does not serve the gateway's account: an admin must see to it.", provider=slug
        )
        failure.certain = status == 402 or provider.unpaid
        failure.gateway_code = self.failure_code
        return failure

    def _misplaced(self, slug: str, status: int) -> UpstreamError:
        failure = self._fault(
            f"{slug} has no such address (status {status}): an admin must check its base URL.", slug
        )
        failure.worth_a_retry = False
        return failure

    def _fault(self, message: str, slug: str) -> UpstreamError:
        failure = UpstreamError(message, provider=slug)
        failure.gateway_code = self.failure_code
        return failure

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


def _is_no_address(found: ErrorFields) -> bool:
    """Whether a 404 is about the place that was asked, not about the model that was."""
    return not found.known or bool(_NO_ADDRESS.match(found.message)) or found.code == "DeploymentNotFound"
