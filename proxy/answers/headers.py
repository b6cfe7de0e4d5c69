"""Headers of the gateway's answers, as the lines that go over the wire: each ends with CR LF."""

import re

from proxy.admission.base import NO_RATE_LIMITS
from proxy.calls.call import Call
from proxy.errors import GatewayError, UnsupportedCoding
from routing.table import TargetEntry
from routing.table_cache import TableCache

JSON = b"content-type: application/json\r\n"
PROXY = b"x-litellm-proxy: true\r\nx-content-type-options: nosniff\r\n"
NO_RETRY = b"x-should-retry: false\r\n"
"""Both vendors' SDKs obey it."""
_REQUESTS, _TOKENS = (
    b"x-ratelimit-limit-%b: %%d\r\nx-ratelimit-remaining-%b: %%d\r\nx-ratelimit-reset-%b: %%bs\r\n"
    % (kind, kind, kind)
    for kind in (b"requests", b"tokens")
)
_BOTH = _REQUESTS + _TOKENS
_NOT_PRINTABLE = re.compile(r"[^\x20-\x7e]")
MOST_KEPT, MOST_BYTES = 10_000, 8 * 1024 * 1024  # two for each target: one of a table with many


class AnswerHeaders:
    """Keeps the lines that are the same for all answers of a target, for as long as its table serves."""

    def __init__(self) -> None:
        self._of_target: TableCache[bytes] = TableCache(MOST_KEPT, MOST_BYTES)

    def of_answer(self, call: Call, content_type: str) -> bytes:
        assert call.target is not None
        assert call.route is not None
        tries = len(call.attempts)
        retried = _retries(call) if tries > 1 else 0
        fallbacks = tries - 1 - retried or int(call.fell_back_from is not None)
        overhead = call.elapsed_ms - call.upstream_ms
        target_lines = self._of_target.get(call.table, (call.target, content_type))
        lines = b"%b%bx-litellm-attempted-retries: %d\r\nx-litellm-attempted-fallbacks: %d\r\n%b" % (
            target_lines or self._make_target_lines(call, call.target, content_type),
            _identity(call),
            retried,
            fallbacks,
            b"x-litellm-overhead-duration-ms: %.3f\r\n" % (overhead if overhead > 0 else 0.0),
        )
        if (cost := call.price_cost) is not None:
            lines += b"x-litellm-response-cost: %d.%09d\r\n" % (cost // 10**9, cost % 10**9)
        return lines if call.rate_limits is NO_RATE_LIMITS else lines + _rate_limits(call)

    def of_error(self, error: GatewayError, call: Call) -> bytes:
        lines = JSON + PROXY + _identity(call) + _rate_limits(call)
        if error.provider:
            lines += b"x-proxy-provider: %b\r\n" % error.provider.encode()
        if error.status in (429, 503) and error.retry_after is not None:
            lines += b"retry-after: %d\r\n" % max(-(-error.retry_after // 1), 1)
        if not error.retry_mends:
            lines += NO_RETRY
        if error.status == UnsupportedCoding.status:
            lines += b"accept-encoding: gzip, deflate, br, zstd\r\n"
        if error.status == 401:
            lines += b"www-authenticate: Bearer\r\n"
        return lines

    def _make_target_lines(self, call: Call, target: TargetEntry, content_type: str) -> bytes:
        assert call.route is not None
        lines = b"content-type: %b\r\n%bx-litellm-model-id: %d\r\n" % (
            content_type.encode("latin-1", "replace"),
            PROXY,
            target.id,
        ) + b"x-litellm-model-group: %b\r\nx-proxy-provider: %b\r\n" % (
            _ascii(call.route.route.name),
            target.provider.slug.encode(),
        )
        return self._of_target.put(call.table, (target, content_type), lines, 2 * len(lines))


def pairs(lines: bytes) -> list[tuple[str, str]]:
    """Names and values of header lines, for a door that wants them apart."""
    parted = (line.partition(": ") for line in lines.decode("latin-1").split("\r\n")[:-1])
    return [(name, value) for name, _, value in parted]


def _identity(call: Call) -> bytes:
    return f"x-request-id: {call.request_id}\r\nx-litellm-call-id: {call.id}\r\n".encode("ascii")


def _retries(call: Call) -> int:
    """Attempts that went to the same target as the one before; the others were fallbacks."""
    attempts = zip(call.attempts, call.attempts[1:], strict=False)
    return sum(before.target is after.target for before, after in attempts)


def _rate_limits(call: Call) -> bytes:
    """Of the key, or of its team or the route where the key itself has no limit."""
    requests, tokens = call.rate_limits
    if requests is not None and tokens is not None:
        reset = b"%.3f" % requests.reset
        same = requests.reset == tokens.reset
        return _BOTH % (
            *(requests.limit, requests.remaining, reset),
            *(tokens.limit, tokens.remaining, reset if same else b"%.3f" % tokens.reset),
        )
    if requests is not None:
        return _REQUESTS % (requests.limit, requests.remaining, b"%.3f" % requests.reset)
    return b"" if tokens is None else _TOKENS % (tokens.limit, tokens.remaining, b"%.3f" % tokens.reset)


def _ascii(text: str) -> bytes:
    """As a header may hold it: whatever else is in a name becomes a question mark."""
    return _NOT_PRINTABLE.sub("?", text).encode("ascii")
