"""Spans of a finished call, by the semantic conventions for HTTP servers and for generative AI."""

from collections.abc import Iterator
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from proxy.calls.call import Attempt
from proxy.calls.trace import Finished, Sent
from proxy.journal.records import Closed

SCOPE = InstrumentationScope("switchstand")
OPERATIONS = {"chat/completions": "chat", "completions": "text_completion"}  # others are named alike
_OUR_FAULT = ("failed", "upstream_failed", "upstream_broken")

Attributes = dict[str, Any]


def spans_of(done: Finished, resource: Resource) -> list[ReadableSpan]:
    """The call, then its attempts. Empty where the trace is not sampled."""
    if not done.trace.sampled:
        return []
    return list(chain([_server_span(done, resource)], _client_spans(done, resource)))


def operation_of(row: Closed) -> str:
    return OPERATIONS.get(row.endpoint, row.endpoint)


def server_attributes(row: Closed) -> Attributes:
    """Those that metrics have too: configured names only."""
    found: Attributes = {"http.request.method": "POST", "http.route": f"/v1/{row.endpoint}"}
    if row.status is not None:
        found["http.response.status_code"] = row.status
    if row.outcome in _OUR_FAULT or row.outcome == "client_gone":
        found["error.type"] = row.error_code or row.outcome
    return found


def client_attributes(row: Closed, attempt: Attempt) -> Attributes:
    """Those that metrics have too. The model is as configured: a caller's words would have no bound."""
    target = attempt.target
    found: Attributes = {
        "gen_ai.operation.name": operation_of(row),
        "gen_ai.provider.name": target.provider.slug,
        "gen_ai.request.model": target.upstream_model,
    }
    found |= _address(target.provider.base_url)
    if error := error_of(attempt):
        found["error.type"] = error
    return found


def error_of(attempt: Attempt) -> str:
    """The error's code, or cancelled; empty where it answered."""
    if attempt.result[:1].isdigit():
        return "upstream_broken" if ", then: " in attempt.result else ""
    return attempt.result.partition(":")[0]


def seconds_of(done: Finished, attempt: Attempt) -> float:
    """A stream's attempt lasts until its last byte, or until another one had to go on for it."""
    if not done.row.stream or not attempt.result[:1].isdigit():
        return attempt.ms / 1000
    end = done.received + (done.row.total_ms or 0.0) / 1000
    if ", then: " in attempt.result:
        later = (other.started for other in done.attempts if other.started > attempt.started)
        end = min(later, default=end)
    return max(end - attempt.started, attempt.ms / 1000)


def _server_span(done: Finished, resource: Resource) -> ReadableSpan:
    row, trace = done.row, done.trace
    start = row.received_at_ns
    failed = row.outcome in _OUR_FAULT or (row.status or 0) >= 500
    parent = None
    if trace.parent is not None:
        parent = _context(trace.trace_id, trace.parent.span_id, trace.parent.state, is_remote=True)
    return ReadableSpan(
        f"POST /v1/{row.endpoint}",
        context=_own_context(done, trace.span_id),
        parent=parent,
        resource=resource,
        attributes=server_attributes(row) | _of_call(row),
        kind=SpanKind.SERVER,
        status=Status(StatusCode.ERROR, row.error_code or row.outcome) if failed else Status(),
        start_time=start,
        end_time=start + int((row.total_ms or 0.0) * 1e6),
        instrumentation_scope=SCOPE,
    )


def _of_call(row: Closed) -> Attributes:
    found: Attributes = {
        "switchstand.call_id": row.id,
        "switchstand.request_id": row.request_id or row.id,
        "switchstand.outcome": row.outcome,
        "switchstand.route": row.route,
        "switchstand.key": row.key_name,
        "switchstand.team": row.team,
        "gen_ai.request.model": row.model,
    }
    found = {name: value for name, value in found.items() if value}
    if row.cost_nano_usd is not None:
        found["switchstand.cost_usd"] = row.cost_nano_usd / 1e9
    return found


def _client_spans(done: Finished, resource: Resource) -> Iterator[ReadableSpan]:
    parent = _own_context(done, done.trace.span_id)
    for sent in done.trace.sent:
        attempt = sent.attempt
        start = done.row.received_at_ns + int((attempt.started - done.received) * 1e9)
        error = error_of(attempt)
        yield ReadableSpan(
            f"{operation_of(done.row)} {attempt.upstream_model}",
            context=_own_context(done, sent.span_id),
            parent=parent,
            resource=resource,
            attributes=client_attributes(done.row, attempt) | _of_attempt(done, sent),
            kind=SpanKind.CLIENT,
            # Its code alone: a provider's message may quote the prompt.
            status=Status(StatusCode.ERROR, error) if error else Status(),
            start_time=start,
            end_time=start + int(seconds_of(done, attempt) * 1e9),
            instrumentation_scope=SCOPE,
        )


def _of_attempt(done: Finished, sent: Sent) -> Attributes:
    row, attempt = done.row, sent.attempt
    found: Attributes = {"gen_ai.request.model": attempt.upstream_model, "gen_ai.request.stream": row.stream}
    if attempt.result[:3].isdecimal():
        found["http.response.status_code"] = int(attempt.result[:3])
        if row.stream:
            found["gen_ai.response.time_to_first_chunk"] = attempt.ms / 1000
    if sent.model:
        found["gen_ai.response.model"] = sent.model
    if attempt is done.served and row.input_tokens is not None:
        found |= _tokens(row)
    return found


def _tokens(row: Closed) -> Attributes:
    found: Attributes = {
        "gen_ai.usage.input_tokens": row.input_tokens,
        "gen_ai.usage.output_tokens": row.output_tokens or 0,
    }
    if row.cached_tokens:
        found["gen_ai.usage.cache_read.input_tokens"] = row.cached_tokens
    if written := (row.cache_write_tokens or 0) + (row.cache_write_1h_tokens or 0):
        found["gen_ai.usage.cache_creation.input_tokens"] = written
    if row.reasoning_tokens:
        found["gen_ai.usage.reasoning.output_tokens"] = row.reasoning_tokens
    if row.tokens_estimated:
        found["switchstand.tokens_estimated"] = True
    return found


def _address(base_url: str) -> Attributes:
    parts = urlsplit(base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {"server.address": parts.hostname or "", "server.port": port}


def _own_context(done: Finished, span_id: int) -> SpanContext:
    parent = done.trace.parent
    return _context(done.trace.trace_id, span_id, parent.state if parent else "")


def _context(trace_id: int, span_id: int, state: str, *, is_remote: bool = False) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(trace_id, span_id, is_remote, flags, TraceState.from_header([state] if state else []))
