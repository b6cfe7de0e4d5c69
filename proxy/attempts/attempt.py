"""One attempt: one request to one target, up to its whole answer or a stream's first event."""

import asyncio
import time
from collections.abc import Awaitable
from functools import lru_cache

from proxy import stream_usage
from proxy.accounting.said import shown
from proxy.attempts.reading import Answer, as_gateway_error, hold, read_answer
from proxy.attempts.silence import PATIENT, bound_of
from proxy.breaker.registry import Board, Trial
from proxy.calls.call import Attempt, Call
from proxy.calls.capture import level_of
from proxy.continuing import Prefix
from proxy.errors import GatewayError, UpstreamTimeout
from proxy.transports.base import SentRequest, UpstreamRequest, UpstreamResponse
from proxy.upstreams.deadline import Deadline, DeadlinePassed
from proxy.upstreams.pool import Link, Upstreams
from routing.table import CONTENT_FULL, ProviderEntry, RouteEntry, TargetEntry

CANCELLED = "cancelled"
OTHER_WAS_FIRST = "cancelled: another target was first"
LONGEST_RESULT = 200  # characters of the gateway's own words; a provider's have a bound of their own


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
            with (deadline := Deadline(seconds)):
                answer = await self._on_slot(call, begun, prefix)
        except DeadlinePassed:
            slug = begun.attempt.target.provider.slug
            raise UpstreamTimeout(
                f"{slug} did not answer within {seconds:g} s (the attempt time-out).", provider=slug
            ) from None
        if answer.opening is not None:
            answer.opening.hurry(deadline.due)
        return answer

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
        if answer.opening is None:
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
                answer = await read_answer(call, begun, response)
            else:
                with (deadline := Deadline(seconds)):
                    response = await begun.response()
                    answer = await read_answer(call, begun, response)
                if answer.opening is not None:
                    answer.opening.hurry(deadline.due)
            answer.hides_usage = begun.hides_usage
            if answer.stream and _may_wait_on(call, begun):
                response.allow_silence(PATIENT)
            if answer.stream and prefix is None and call.route.route.on_cut == "hold":
                await hold(call, answer, call.route.route.stall_timeout)
            return answer
        except BaseException as error:
            if response is not None:
                await asyncio.shield(response.aclose())
            if (known := as_gateway_error(error, begun.link)) is not None:
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
