"""Step 5: try targets in order until one answers or the deadline passes."""

import asyncio
import time
from dataclasses import dataclass

from proxy.admission.refusals import refused
from proxy.call import Attempt, Call
from proxy.deadline import Deadline, DeadlinePassed
from proxy.dialects.base import MalformedAnswer
from proxy.errors import (
    GatewayError,
    PoolExhausted,
    RateLimited,
    UpstreamAuthFailed,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
)
from proxy.retry_after import told_wait
from proxy.sse import StreamReader
from proxy.targets.board import Trial
from proxy.targets.choosing import Chooser
from proxy.transports.base import TransportFault, TransportTimeout, UpstreamRequest, UpstreamResponse
from proxy.upstreams import Link, Upstreams
from proxy.usage import Usage
from routing.table import ProviderEntry, TargetEntry

LONGEST_PAUSE = 60.0  # seconds


@dataclass(slots=True)
class Answer:
    """What the first good target sent: the whole body, or the first chunk of a stream."""

    link: Link
    response: UpstreamResponse
    content_type: str
    body: bytes
    stream: bool
    trial: Trial
    usage: Usage | None = None

    async def aclose(self) -> None:
        """Close a stream's connection and free its slot; a whole answer holds neither."""
        try:
            await self.response.aclose()
        finally:
            self.trial.end()
            self.link.pool.release()


class Attempts:
    def __init__(self, upstreams: Upstreams, chooser: Chooser) -> None:
        self._upstreams = upstreams
        self._chooser = chooser

    async def first_answer(self, call: Call) -> Answer:
        """Starts with the target that the call's grant holds.

        Raises the GatewayError that the caller gets when no target answers.
        """
        assert call.route is not None
        deadline = call.route.route.deadline
        seconds = min(call.timeout_header or deadline, deadline)
        left = call.incoming.received + seconds - time.perf_counter()
        try:
            with Deadline(left):
                return await self._try_all(call)
        except DeadlinePassed:
            late = UpstreamTimeout(f"No provider answered within {seconds:g} s.")
            if call.trial is not None and seconds >= deadline:
                call.trial.failed(late)  # a shorter time-out of the caller's own is no fault
            raise late from None

    async def only_answer(self, call: Call, target: TargetEntry) -> Answer:
        """One target's answer, asked once. Raises its GatewayError."""
        assert call.route is not None
        try:
            with Deadline(call.route.route.deadline):
                return await self._attempt(call, target)
        except DeadlinePassed:
            raise UpstreamTimeout(provider=target.provider.slug) from None

    async def _try_all(self, call: Call) -> Answer:
        assert call.grant is not None
        failures: list[GatewayError] = []
        last = len(call.order) - 1
        while True:
            position = call.grant.option
            target = call.order[position]
            try:
                return await self._try_target(call, target, failures, another=position < last)
            except (UpstreamError, PoolExhausted, RateLimited) as failure:
                if isinstance(failure, UpstreamRejected):
                    raise
                failures.append(failure)
                if type(failure) is RateLimited:
                    call.skip(target, failure.message)
            await self._go_on(call, position + 1, failures)

    async def _go_on(self, call: Call, position: int, failures: list[GatewayError]) -> None:
        """Let the grant hold the next target that may be tried. Raises the verdict where there is none."""
        assert call.grant is not None
        last = len(call.order) - 1
        while position < last and not self._chooser.may_try(call.order[position], call):
            call.skip(call.order[position], "its circuit opened meanwhile")
            position += 1
        if position > last:
            raise self._verdict(call, failures)
        try:
            await call.grant.move(position, last + 1)
        except RateLimited as failure:
            raise self._verdict(call, [*failures, failure]) from None
        held = call.grant.option
        if position < held < last and not self._chooser.may_try(call.order[held], call):
            await self._go_on(call, held, failures)

    def _verdict(self, call: Call, failures: list[GatewayError]) -> GatewayError:
        assert call.grant is not None
        if call.grant.skipped and call.need is not None:
            failures = [*failures, refused(call.grant.skipped, call.need)]
        return _verdict(failures)

    async def _try_target(
        self, call: Call, target: TargetEntry, failures: list[GatewayError], another: bool
    ) -> Answer:
        """Tries one target and its retries. Raises the last failure."""
        assert call.grant is not None
        provider = target.provider
        wanted = call.retries_header
        retries = provider.retries if wanted is None else wanted
        for number in range(retries + 1):
            try:
                return await self._attempt(call, target)
            except UpstreamError as failure:
                if number == retries or not _worth_a_retry(failure, another):
                    raise
                if another and not self._chooser.may_try(target, call):
                    raise
                failures.append(failure)
                await _pause(call, backoff(provider.retry_delay, number, failure.retry_after))
            # A retry is a further request: it counts against the target's limits.
            position = call.grant.option
            await call.grant.move(position, position + 1)
        raise AssertionError("unreachable: the last try returns or raises")

    async def _attempt(self, call: Call, target: TargetEntry) -> Answer:
        assert call.route is not None
        assert call.ask is not None
        attempt = Attempt(target, target.model_for(call.route.wildcard_part), time.perf_counter())
        call.trial = trial = self._chooser.board.begin(
            target.id, stream=call.ask.stream, own_key=bool(call.caller_credential)
        )
        try:
            answer = await self._ask(call, attempt, trial)
        except BaseException as error:
            attempt.result = _result(error)
            if isinstance(error, GatewayError):
                trial.failed(error)
            trial.end()
            raise
        finally:
            attempt.ms = (time.perf_counter() - attempt.started) * 1000
            call.upstream_ms += attempt.ms
        attempt.result = str(answer.response.status)
        call.target = target
        return answer

    async def _ask(self, call: Call, attempt: Attempt, trial: Trial) -> Answer:
        """One request to one target, up to the whole answer or its first chunk."""
        provider = attempt.target.provider
        link = self._upstreams.link(provider)
        if not link.pool.take_free():
            await link.pool.wait_for_free(provider.slug)
        response: UpstreamResponse | None = None
        try:
            response = await self._send(call, attempt, link)
            answer = await _read(call, link, response, trial)
        except BaseException as error:
            link.pool.release()
            if response is not None:
                await asyncio.shield(response.aclose())
            if isinstance(error, TransportTimeout):
                raise UpstreamTimeout(f"{provider.slug}: {error}.", provider=provider.slug) from error
            if isinstance(error, TransportFault | MalformedAnswer):
                raise _failed(link, str(error)) from error
            raise
        trial.answered()
        if not answer.stream:
            trial.end()
            link.pool.release()  # read to its end: the connection is free again
        return answer

    async def _send(self, call: Call, attempt: Attempt, link: Link) -> UpstreamResponse:
        assert call.route is not None
        assert call.ask is not None
        body = call.ask.body(attempt.upstream_model, _defaults(call, link.provider))
        request = UpstreamRequest(link.head(call.caller_credential), body, call.ask.stream)
        call.attempts.append(attempt)
        return await link.pool.transport.send(request)


async def _read(call: Call, link: Link, response: UpstreamResponse, trial: Trial) -> Answer:
    assert call.ask is not None
    if not 200 <= response.status < 300:
        raise await _error(call, link, response)
    content_type = response.header("content-type") or ""
    # Some providers answer a stream's request with a whole JSON answer, or an error in one.
    if call.ask.stream and not content_type.startswith("application/json"):
        first = await response.next_chunk()
        if not first:
            raise _failed(link, "closed the stream before its first event")
        if b'"error"' in first and _is_error(first):
            raise _failed(link, "began the stream with an error")
        return Answer(link, response, content_type or "text/event-stream", first, True, trial)
    body = await response.read()
    usage = link.dialect.read_answer(body)
    return Answer(link, response, content_type or "application/json", body, False, trial, usage)


def _is_error(first_chunk: bytes) -> bool:
    reader = StreamReader()
    reader.feed(first_chunk)
    return reader.failed


async def _error(call: Call, link: Link, response: UpstreamResponse) -> GatewayError:
    body = await response.read()
    own_key = bool(call.caller_credential)
    wait = told_wait(response.header)
    credentials = [text for text in (link.provider.credential, call.caller_credential) if text]
    # Some providers repeat the key that they refuse: before the message is cut, which might leave half ...
    for credential in credentials:
        body = body.replace(credential.encode("latin-1", "replace"), b"[redacted]")
    error = link.dialect.error(link.provider, response.status, body, wait, own_key)
    if isinstance(error, UpstreamRateLimited):
        error.told_wait = wait
    # ... and again after the JSON's escapes are gone.
    for credential in credentials:
        error.message = error.message.replace(credential, "[redacted]")
        error.code = error.code.replace(credential, "[redacted]")
        error.param = error.param and error.param.replace(credential, "[redacted]")
    return error


def _failed(link: Link, what: str) -> UpstreamError:
    failure = UpstreamError(f"{link.provider.slug}: {what}.", provider=link.provider.slug)
    failure.gateway_code = getattr(link.dialect, "failure_code", failure.gateway_code)
    return failure


def _defaults(call: Call, provider: ProviderEntry) -> tuple[tuple[str, bytes], ...]:
    """What is added where the caller gave none; with a budget also the reserved answer tokens."""
    assert call.route is not None
    route = call.route.route
    if not call.bounds_answer or route.limits_answers:
        return route.default_parameters
    return (*route.default_parameters, (_bound_name(provider), b"%d" % route.answer_tokens))


def _bound_name(provider: ProviderEntry) -> str:
    # OpenAI's reasoning models refuse the older name, many other providers don't know the newer one.
    host = provider.base_url.split("//", 1)[-1].split("/", 1)[0]
    own = host == "api.openai.com" or host.endswith(".openai.azure.com")
    return "max_completion_tokens" if own else "max_tokens"


def _result(error: BaseException) -> str:
    if isinstance(error, GatewayError):
        return f"{error.code}: {error.message}"[:200]
    return "cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__name__


def backoff(retry_delay: float, number: int, retry_after: float | None) -> float:
    """Seconds before retry `number` (0 is the first): min(retry_delay * 2**number, 60).

    Retry-After, where it asks for longer, counts instead.
    """
    return max(min(retry_delay * 2**number, LONGEST_PAUSE), retry_after or 0.0)


def _worth_a_retry(failure: UpstreamError, another: bool) -> bool:
    """Whether the same target may answer next time."""
    if isinstance(failure, UpstreamRejected | UpstreamAuthFailed | UpstreamTimeout):
        return False
    # Another target may answer at once, where this one has said that it won't yet.
    return not (isinstance(failure, UpstreamRateLimited) and another)


async def _pause(call: Call, seconds: float) -> None:
    started = time.perf_counter()
    try:
        await asyncio.sleep(seconds)
    finally:
        call.upstream_ms += (time.perf_counter() - started) * 1000


def _verdict(failures: list[GatewayError]) -> GatewayError:
    """What the caller is told when no target answered."""
    others = [failure for failure in failures if failure.status != 429]
    if others:
        return others[-1]
    # Every target is at a limit: the one that frees first says when to come back.
    return min(failures, key=lambda failure: failure.retry_after or 0.0)
