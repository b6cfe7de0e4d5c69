"""Headers of the gateway's answers."""

from proxy.admission.base import Headroom
from proxy.call import Call
from proxy.errors import GatewayError

Header = tuple[bytes, bytes]
JSON = (b"content-type", b"application/json")
PROXY = (b"x-litellm-proxy", b"true")


def of_answer(call: Call, content_type: str) -> list[Header]:
    target, route = call.target, call.route
    assert target is not None
    assert route is not None
    overhead = max(call.elapsed_ms - call.upstream_ms, 0.0)
    retried = _retries(call)
    headers = [
        (b"content-type", content_type.encode("latin-1", "replace")),
        *_identity(call),
        (b"x-litellm-model-id", b"%d" % target.id),
        (b"x-litellm-model-group", _ascii(route.route.name)),
        (b"x-litellm-attempted-retries", b"%d" % retried),
        (b"x-litellm-attempted-fallbacks", b"%d" % (len(call.attempts) - 1 - retried)),
        (b"x-litellm-overhead-duration-ms", b"%.3f" % overhead),
        (b"x-proxy-provider", target.provider.slug.encode()),
        *_rate_limits(call),
    ]
    if call.price_cost is not None:
        headers.append((b"x-litellm-response-cost", b"%d.%09d" % divmod(call.price_cost, 10**9)))
    return headers


def of_error(error: GatewayError, call: Call) -> list[Header]:
    headers = [JSON, *_identity(call), *_rate_limits(call)]
    if error.provider:
        headers.append((b"x-proxy-provider", error.provider.encode()))
    if error.status in (429, 503) and error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(-(-error.retry_after // 1), 1)))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def _identity(call: Call) -> tuple[Header, ...]:
    return (
        (b"x-request-id", call.request_id.encode()),
        (b"x-litellm-call-id", str(call.id).encode()),
        PROXY,
    )


def _retries(call: Call) -> int:
    """Attempts that went to the same target as the one before; the others were fallbacks."""
    pairs = zip(call.attempts, call.attempts[1:], strict=False)
    return sum(before.target is after.target for before, after in pairs)


def _rate_limits(call: Call) -> list[Header]:
    """Of the key, or of its team or the route where the key itself has no limit."""
    requests, tokens = call.headrooms
    if requests is None and tokens is None:
        return []
    return _headroom(b"requests", requests) + _headroom(b"tokens", tokens)


def _headroom(kind: bytes, left: Headroom | None) -> list[Header]:
    if left is None:
        return []
    return [
        (b"x-ratelimit-limit-" + kind, b"%d" % left.limit),
        (b"x-ratelimit-remaining-" + kind, b"%d" % left.remaining),
        (b"x-ratelimit-reset-" + kind, b"%.3fs" % left.reset),
    ]


def _ascii(text: str) -> bytes:
    return text.encode("ascii", "replace")
