"""One attempt: one request to one target, up to its whole answer or the first chunk of a stream."""

import asyncio
import time
from collections.abc import Awaitable
from functools import lru_cache

import msgspec

from proxy import stream_usage
from proxy.answer_bytes import BLANKS, as_utf8, may_begin_events, unpacked
from proxy.call import Attempt, Call
from proxy.content.capture import level_of
from proxy.continuing import Prefix
from proxy.deadline import Deadline, DeadlinePassed
from proxy.dialects.base import MalformedAnswer
from proxy.errors import GatewayError, UpstreamError, UpstreamRateLimited, UpstreamTimeout
from proxy.redaction import secrets_of
from proxy.retry_after import told_wait
from proxy.said import shown
from proxy.silence import PATIENT, bound_of
from proxy.sse import StreamReader
from proxy.targets.board import Board, Trial
from proxy.transports.base import (
    LONGEST_ERROR,
    ConnectionBroken,
    SentRequest,
    Sink,
    TransportFault,
    TransportTimeout,
    UpstreamRequest,
    UpstreamResponse,
)
from proxy.transports.coding import UnpackedResponse, coding_of
from proxy.upstreams import Link, Upstreams
from proxy.usage import Usage
from routing.table import CONTENT_FULL, ProviderEntry, RouteEntry, TargetEntry

CANCELLED = "cancelled"
OTHER_WAS_FIRST = "cancelled: another target was first"
JSON, EVENTS = "application/json", "text/event-stream"
ONE_PIECE = 256 * 1024  # bytes; a stream that was held back and is longer goes out piece by piece
LONGEST_RESULT = 200  # characters of the gateway's own words; a provider's have a bound of their own


class Answer(msgspec.Struct, eq=False):
    """What a target sent: the whole body, or a stream from its first chunk on.

    `content_type` is the gateway's own, whatever the provider called what it sent.
    """

    target: TargetEntry
    link: Link
    response: UpstreamResponse
    content_type: str
    body: bytes
    stream: bool
    trial: Trial
    key: int | None  # whose slot of the pool a stream holds; None: MASTER_KEY's, or a shadow's
    usage: Usage | None = None
    kept: list[bytes] | None = None  # what of a stream is here behind the first chunk, the last part first
    hides_usage: bool = False  # the caller did not ask for the usage that comes with the stream

    async def aclose(self) -> None:
        """Close a stream's connection and free its slot; a whole answer holds neither.

        May be called twice.
        """
        if not self.stream:
            return
        self.stream = False
        try:
            await self.response.aclose()
        finally:
            self.trial.end()
            self.link.pool.release(self.key)


class Begun:
    """An attempt under way. If it was sent before anyone waits for it, it holds a slot of the pool."""

    __slots__ = ("attempt", "hides_usage", "key", "link", "request", "sent", "trial")

    def __init__(self, attempt: Attempt, trial: Trial, link: Link, key: int | None) -> None:
        self.attempt = attempt
        self.key = key
        self.trial = trial
        self.link = link
        self.request: UpstreamRequest | None = None
        self.hides_usage = False
        self.sent: SentRequest | None = None

    def response(self) -> Awaitable[UpstreamResponse]:
        """To be awaited at once."""
        assert self.request is not None
        return self.sent.head() if self.sent is not None else self.link.pool.transport.send(self.request)

    def drop(self, call: Call) -> None:
        """Of what was sent: nobody will wait for the answer."""
        assert self.sent is not None
        self.attempt.result = CANCELLED
        _take_time(call, self.attempt)
        self.sent.abandon()
        self.end()

    def end(self) -> None:
        self.trial.end()
        self.link.pool.release(self.key)


class Asker:
    def __init__(self, upstreams: Upstreams, board: Board) -> None:
        self._upstreams = upstreams
        self._board = board

    def begin(self, call: Call, target: TargetEntry) -> None:
        """Send the request before anyone waits for the answer, where the pool has what it takes.

        ask() goes on with it; it must be dropped if that is never called. Not where a head is made for each
        call, the caller's own credential or a trace in it.
        """
        link = self._upstreams.link(target.provider)
        key = None if call.key is None else call.key.id
        if call.trace is not None or call.caller_credential or not link.can_begin(key):
            return
        begun = self._begin(call, target, link)
        try:
            _prepare(call, begun)
            assert begun.request is not None
            begun.sent = link.pool.transport.begin(begun.request)
        except BaseException:
            begun.end()
            raise
        call.begun = begun

    def _begin(self, call: Call, target: TargetEntry, link: Link) -> Begun:
        assert call.route is not None
        assert call.ask is not None
        key = None if call.key is None else call.key.id  # a shadow has none
        attempt = Attempt(target, target.model_for(call.route.wildcard_part), time.perf_counter())
        call.trial = trial = self._board.begin(
            target.id,
            stream=call.ask.stream,
            own_key=bool(call.caller_credential),
            caller=key or 0,
        )
        return Begun(attempt, trial, link, key)

    async def ask(self, call: Call, target: TargetEntry, prefix: Prefix | None = None) -> Answer:
        """Raises the GatewayError that says what went wrong; the attempt is in the call's trail.

        `prefix`: the part of the answer that the caller has already.
        """
        assert call.route is not None
        begun, call.begun = call.begun, None
        if begun is None:
            begun = self._begin(call, target, self._upstreams.link(target.provider))
        attempt, trial = begun.attempt, begun.trial
        try:
            if call.route.route.attempt_timeout is None:
                answer = await self._on_slot(call, begun, prefix)
            else:
                answer = await self._in_time(call, begun, prefix)
        except BaseException as error:
            attempt.result = _result(error, call)
            if isinstance(error, GatewayError):
                trial.failed(error)
            trial.end()
            raise
        finally:
            _take_time(call, attempt)
        attempt.result = str(answer.response.status)
        if call.trace is not None:
            call.trace.answered(attempt, answer.body)
        return answer

    async def _in_time(self, call: Call, begun: Begun, prefix: Prefix | None) -> Answer:
        assert call.route is not None
        seconds = call.route.route.attempt_timeout
        assert seconds is not None
        try:
            with Deadline(seconds):
                return await self._on_slot(call, begun, prefix)
        except DeadlinePassed:
            slug = begun.attempt.target.provider.slug
            raise UpstreamTimeout(
                f"{slug} did not answer within {seconds:g} s (the attempt time-out).", provider=slug
            ) from None

    async def _on_slot(self, call: Call, begun: Begun, prefix: Prefix | None) -> Answer:
        """Holds a slot of the provider's pool; a stream keeps it until it is closed."""
        link, trial = begun.link, begun.trial
        if begun.sent is None and not link.pool.take_free(begun.key):
            await link.pool.wait_for_free(begun.key, link.provider.slug)
        try:
            answer = await self._answer(call, begun, prefix)
        except BaseException:
            link.pool.release(begun.key)
            raise
        trial.answered()
        if not answer.stream:
            trial.end()
            link.pool.release(begun.key)  # read to its end: the connection is free again
        return answer

    async def _answer(self, call: Call, begun: Begun, prefix: Prefix | None) -> Answer:
        assert call.route is not None
        if begun.sent is None:
            _prepare(call, begun, prefix)
        response: UpstreamResponse | None = None
        try:
            if (seconds := _first_byte_limit(call)) is None:
                response = await begun.response()
                answer = await _read(call, begun, response)
            else:
                with Deadline(seconds):
                    response = await begun.response()
                    answer = await _read(call, begun, response)
            answer.hides_usage = begun.hides_usage
            if answer.stream and _may_wait_on(call, begun):
                response.allow_silence(PATIENT)
            if answer.stream and prefix is None and call.route.route.on_cut == "hold":
                await _hold(answer, call.route.route.stall_timeout)
            return answer
        except BaseException as error:
            if response is not None:
                await asyncio.shield(response.aclose())
            if (known := _as_gateway_error(error, begun.link)) is not None:
                raise known from error
            raise


def _may_wait_on(call: Call, begun: Begun) -> bool:
    """Whether a stream that has begun may be silent for longer: no other target could go on with it."""
    assert call.route is not None
    return begun.link.provider.connection.read_timeout is None and call.route.route.on_cut != "continue"


def _take_time(call: Call, attempt: Attempt) -> None:
    attempt.ms = (time.perf_counter() - attempt.started) * 1000
    call.upstream_ms += attempt.ms


def _prepare(call: Call, begun: Begun, prefix: Prefix | None = None) -> None:
    """The request of the attempt; from here on it is in the call's trail."""
    assert call.route is not None
    assert call.ask is not None
    attempt, link = begun.attempt, begun.link
    ask, defaults = call.ask, _defaults(call, link.provider)
    asks = stream_usage.asking(ask, defaults) if ask.stream and link.provider.asks_usage else None
    if asks is not None:
        ask = asks
    if prefix is None:
        body = ask.body(attempt.upstream_model, defaults)
    else:
        body = prefix.body(ask, attempt.upstream_model, defaults, link.provider)
    head = link.head(call.caller_credential)
    if call.trace is not None:
        head = call.trace.head(head, attempt)
    silence = link.provider.connection.read_timeout
    if silence is None and ask.stream:  # a whole answer is bounded by the attempt's time-out and the deadline
        silence = bound_of(call, attempt.target, attempt.upstream_model)
    begun.request, begun.hides_usage = UpstreamRequest(head, body, ask.stream, silence), asks is not None
    call.attempts.append(attempt)


def _first_byte_limit(call: Call) -> float | None:
    assert call.route is not None
    assert call.ask is not None
    return call.route.route.first_byte_timeout if call.ask.stream else None


async def _read(call: Call, begun: Begun, response: UpstreamResponse) -> Answer:
    assert call.ask is not None
    target, link, trial = begun.attempt.target, begun.link, begun.trial
    kind, coding = response.content()
    if coding:
        response = unpacked(response, coding, target.provider.connection.longest_answer)
    if not 200 <= response.status < 300:
        raise await _error(call, link, response)
    # Some providers answer a stream's request with a whole JSON answer, or an error in one.
    if call.ask.stream and not kind.startswith("application/json"):
        first = await response.next_chunk()
        if not first:
            raise _failed(link, "closed the stream before its first event")
        if first[:5] != b"data:" and not may_begin_events(first):
            return await _no_stream(begun, response, kind, first)
        if b'"error"' in first and _is_error(first):
            raise _failed(link, "began the stream with an error")
        return Answer(target, link, response, EVENTS, first, True, trial, begun.key)
    return _whole(begun, response, kind, await response.read())


def _whole(begun: Begun, response: UpstreamResponse, kind: str, body: bytes) -> Answer:
    target, link, trial = begun.attempt.target, begun.link, begun.trial
    if "charset" in kind:
        body = as_utf8(body, kind)
    usage = link.dialect.read_answer(body)
    return Answer(target, link, response, JSON, body, False, trial, begun.key, usage)


async def _no_stream(begun: Begun, response: UpstreamResponse, kind: str, first: bytes) -> Answer:
    """What came where a stream was asked for is a JSON answer, whatever it is called, or none."""
    if first.lstrip(BLANKS)[:1] not in (b"{", b"["):
        raise _failed(begun.link, "answered 200 with what is neither an event stream nor JSON")
    return _whole(begun, response, kind, first + await response.read())


def next_chunk(response: UpstreamResponse, stall: float | None, sink: Sink | None = None) -> Awaitable[bytes]:
    """b"" at the end; see UpstreamResponse.next_chunk().

    Raises TransportFault, also where nothing came for `stall` seconds.
    """
    return response.next_chunk(sink) if stall is None else _next_in_time(response, stall, sink)


async def _next_in_time(response: UpstreamResponse, stall: float, sink: Sink | None) -> bytes:
    deadline = Deadline(stall)

    def take(chunk: bytes) -> bool:
        deadline.renew()
        return sink is not None and sink(chunk)

    try:
        with deadline:
            return await response.next_chunk(take)
    except DeadlinePassed:
        raise TransportTimeout(f"sent nothing for {stall:g} s (the stall time-out)") from None


async def _hold(answer: Answer, stall: float | None) -> None:
    """Wait for the whole stream. Raises UpstreamError where it isn't, so that another target may be asked."""
    most = answer.target.provider.connection.longest_answer
    reader = StreamReader()
    parts, size, chunk = [], 0, answer.body
    while chunk:
        parts.append(chunk)
        size += len(chunk)
        if size > most:
            raise _failed(answer.link, f"sent a stream of more than {most:,} bytes, which was held back")
        reader.feed(chunk)
        chunk = await next_chunk(answer.response, stall)
    reader.end()
    if reader.failed or not reader.whole:
        raise _failed(answer.link, "sent an incomplete stream")
    if size > ONE_PIECE:
        answer.body, answer.kept = parts[0], parts[:0:-1]
    else:
        answer.body = b"".join(parts)


def _is_error(first_chunk: bytes) -> bool:
    reader = StreamReader()
    reader.feed(first_chunk)
    return reader.failed


async def _error_body(response: UpstreamResponse) -> bytes:
    """The status is what counts: a body that can't be unpacked only tells less."""
    if coding_of(response.content()[1]):
        return b""
    try:
        return (await response.read())[:LONGEST_ERROR]
    except ConnectionBroken:
        if isinstance(response, UnpackedResponse):
            return b""
        raise


async def _error(call: Call, link: Link, response: UpstreamResponse) -> GatewayError:
    body = await _error_body(response)
    own_key = bool(call.caller_credential)
    wait = told_wait(response.header)
    secrets = secrets_of(call, link.provider)
    # Some providers repeat the key that they refuse: before the message is cut, which might leave half ...
    for secret in secrets:
        body = body.replace(secret.encode("latin-1", "replace"), b"[redacted]")
    error = link.dialect.error(link.provider, response.status, body, wait, own_key, call.incoming.body)
    if isinstance(error, UpstreamRateLimited):
        error.told_wait = wait
    elif isinstance(error, UpstreamError) and response.status >= 500:
        error.retry_after = wait
    # ... and again after the JSON's escapes are gone.
    for secret in secrets:
        error.message = error.message.replace(secret, "[redacted]")
        error.said = error.said.replace(secret, "[redacted]")
        error.code = error.code.replace(secret, "[redacted]")
        error.param = error.param and error.param.replace(secret, "[redacted]")
    return error


def _as_gateway_error(error: BaseException, link: Link) -> GatewayError | None:
    slug = link.provider.slug
    if isinstance(error, TransportTimeout):
        return UpstreamTimeout(f"{slug}: {error}.", provider=slug)
    if isinstance(error, DeadlinePassed):
        return UpstreamTimeout(f"{slug}: no first byte in time.", provider=slug)
    if isinstance(error, TransportFault | MalformedAnswer):
        return _failed(link, str(error))
    return None


def _failed(link: Link, what: str) -> UpstreamError:
    failure = UpstreamError(f"{link.provider.slug}: {what}.", provider=link.provider.slug)
    failure.gateway_code = getattr(link.dialect, "failure_code", failure.gateway_code)
    return failure


def _defaults(call: Call, provider: ProviderEntry) -> tuple[tuple[str, bytes], ...]:
    """What is added where the caller gave none; with a budget also the reserved answer tokens."""
    assert call.route is not None
    assert call.ask is not None
    route: RouteEntry = call.route.route
    if call.bounds_answer and call.ask.unlimited:
        call.ask.take_back_no_limit()
    if not call.bounds_answer or route.limits_answers or call.ask.answer_limit is not None:
        return route.default_parameters
    return (*route.default_parameters, (_bound_name(provider.base_url), b"%d" % route.answer_tokens))


@lru_cache(maxsize=1024)
def _bound_name(base_url: str) -> str:
    # OpenAI's reasoning models refuse the older name, many other providers don't know the newer one.
    host = base_url.split("//", 1)[-1].split("/", 1)[0]
    own = host == "api.openai.com" or host.endswith(".openai.azure.com")
    return "max_completion_tokens" if own else "max_tokens"


def _result(error: BaseException, call: Call) -> str:
    if isinstance(error, GatewayError):
        return f"{error.code}: {_told(error, call)}"
    if isinstance(error, asyncio.CancelledError):
        return OTHER_WAS_FIRST if OTHER_WAS_FIRST in error.args else CANCELLED
    return type(error).__name__


def _told(error: GatewayError, call: Call) -> str:
    """What went wrong, with the provider's own words."""
    if not error.said:
        return error.message[:LONGEST_RESULT]
    words = shown(error.said, call.incoming.body, keeps_content=level_of(call) == CONTENT_FULL)
    if error.message == error.said:
        return words
    return error.message[:LONGEST_RESULT] + (f" ({words})" if words else "")
