"""The answer to one attempt: what is one, what is none, and what its failure means."""

from typing import TYPE_CHECKING

import msgspec

from proxy.attempts.answer_bytes import as_utf8, last_data, unpacked
from proxy.attempts.opening import Begins, Opening, Patience, begins_plainly
from proxy.attempts.retry_after import told_wait
from proxy.breaker.registry import Trial
from proxy.calls.call import Call
from proxy.dialects.base import MalformedAnswer
from proxy.errors import GatewayError, UpstreamError, UpstreamRateLimited, UpstreamTimeout
from proxy.metering.usage import Usage
from proxy.redaction import redacted, secrets_of
from proxy.sse import StreamReader
from proxy.stall import Stall
from proxy.transports.base import (
    LONGEST_ERROR,
    ConnectionBroken,
    TransportFault,
    TransportTimeout,
    UpstreamResponse,
)
from proxy.transports.coding import UnpackedResponse, coding_of
from proxy.upstreams.deadline import Deadline, DeadlinePassed
from proxy.upstreams.pool import Link
from routing.table import TargetEntry

if TYPE_CHECKING:
    from proxy.attempts.attempt import Begun

JSON, EVENTS = "application/json", "text/event-stream"
ONE_PIECE = 256 * 1024  # bytes; a stream that was held back and is longer goes out piece by piece


class Answer(msgspec.Struct, eq=False):
    """What a target sent: the whole body, or a stream from its first event on.

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
    kept: list[bytes] | None = None  # what of a stream is here behind `body`, the last part first
    opening: Opening | None = None  # of a stream that goes out before its first event is here
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


async def read_answer(call: Call, begun: "Begun", response: UpstreamResponse) -> Answer:
    """The whole body, or a stream as soon as its first event is here.

    Raises GatewayError, TransportFault and MalformedAnswer where there is no answer.
    """
    assert call.ask is not None
    target, link, trial = begun.attempt.target, begun.link, begun.trial
    kind, coding = response.content()
    if coding:
        response = unpacked(response, coding)
    if not 200 <= response.status < 300:
        raise await _error(call, link, response)
    # Some providers answer a stream's request with a whole JSON answer, or an error in one.
    if not call.ask.stream or kind.startswith("application/json"):
        return _whole(call, begun, response, kind, await response.read())
    first = await response.next_chunk()
    if begins_plainly(first):
        return Answer(target, link, response, EVENTS, first, True, trial, begun.key)
    return await _opened(call, begun, response, kind, first)


async def _opened(call: Call, begun: "Begun", response: UpstreamResponse, kind: str, first: bytes) -> Answer:
    """A stream that does not begin with a whole event, or no stream at all."""
    assert call.route is not None
    opening = Opening()
    opening.hold(first)
    if call.route.route.on_cut == "hold":
        await opening.wait(response)  # the caller gets nothing until it is whole
    else:
        await _wait_with_patience(opening, response, kind)
    if opening.fault:
        raise _refusal(call, begun.link, last_data(opening.held)) or _failed(begun.link, opening.fault)
    held, opening.held = b"".join(opening.held), []
    if opening.begins is Begins.WITH_JSON:
        return _whole(call, begun, response, kind, held + await response.read())
    answer = Answer(begun.attempt.target, begun.link, response, EVENTS, held, True, begun.trial, begun.key)
    answer.opening = opening if opening.begins is Begins.NOT_YET else None
    return answer


async def _wait_with_patience(opening: Opening, response: UpstreamResponse, kind: str) -> None:
    """Also to the time from when on the caller gets what is no event yet."""
    try:
        with Deadline(Patience.seconds):
            await opening.wait(response)
    except DeadlinePassed:
        if not (opening.are_events or "event-stream" in kind):
            await opening.wait(response)


def _whole(call: Call, begun: "Begun", response: UpstreamResponse, kind: str, body: bytes) -> Answer:
    target, link, trial = begun.attempt.target, begun.link, begun.trial
    if ";" in kind:
        body = as_utf8(body, kind)
    try:
        usage = link.dialect.read_answer(body)
    except MalformedAnswer as fault:
        raise _refusal(call, link, body) or fault from None
    return Answer(target, link, response, JSON, body, False, trial, begun.key, usage)


async def hold(call: Call, answer: Answer, stall: float | None) -> None:
    """Wait for the whole stream. Raises UpstreamError where it isn't, so that another target may be asked."""
    most = answer.target.provider.connection.longest_answer
    reader = StreamReader()
    stalls = None if stall is None else Stall(stall, reader)
    parts, size, chunk = [], 0, answer.body
    while chunk:
        parts.append(chunk)
        size += len(chunk)
        if size > most:
            raise _failed(answer.link, f"sent a stream of more than {most:,} bytes, which was held back")
        reader.feed(chunk)
        try:
            coming = answer.response.next_chunk() if stalls is None else stalls.next_chunk(answer.response)
            chunk = await coming
        except TransportFault:
            if not reader.done:
                raise
            break  # its last word is here: nobody buys it again for want of the connection's end
    reader.end()
    if reader.failed and (refusal := _refusal(call, answer.link, last_data(parts))) is not None:
        raise refusal
    if reader.failed or not reader.whole:
        raise _failed(answer.link, "sent an incomplete stream")
    if size > ONE_PIECE:
        answer.body, answer.kept = parts[0], parts[:0:-1]
    else:
        answer.body = b"".join(parts)


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
    body = as_utf8(await _error_body(response), response.content()[0])
    own_key = bool(call.caller_credential)
    wait = told_wait(response.header)
    body = redacted(body, call, link.provider)
    error = link.dialect.error(link.provider, response.status, body, wait, own_key, call.incoming.body)
    if isinstance(error, UpstreamRateLimited):
        error.told_wait = wait
    elif isinstance(error, UpstreamError) and response.status >= 500:
        error.retry_after = wait
    return _redacted_again(error, call, link)


def _refusal(call: Call, link: Link, body: bytes) -> GatewayError | None:
    """Some say with 200 that they refuse the request: then it must not go on to the next provider."""
    error = link.dialect.refusal(link.provider, redacted(body[:LONGEST_ERROR], call, link.provider))
    return None if error is None else _redacted_again(error, call, link)


def _redacted_again(error: GatewayError, call: Call, link: Link) -> GatewayError:
    """After the JSON's escapes are gone."""
    for secret in secrets_of(call, link.provider):
        error.message = error.message.replace(secret, "[redacted]")
        error.said = error.said.replace(secret, "[redacted]")
        error.code = error.code.replace(secret, "[redacted]")
        error.param = error.param and error.param.replace(secret, "[redacted]")
    return error


def as_gateway_error(error: BaseException, link: Link) -> GatewayError | None:
    slug = link.provider.slug
    if isinstance(error, TransportTimeout):
        return UpstreamTimeout(f"{slug}: {error}.", provider=slug)
    if isinstance(error, DeadlinePassed):
        return UpstreamTimeout(f"{slug}: no first event in time (the first-byte time-out).", provider=slug)
    if isinstance(error, TransportFault | MalformedAnswer):
        return _failed(link, str(error))
    return None


def _failed(link: Link, what: str) -> UpstreamError:
    failure = UpstreamError(f"{link.provider.slug}: {what}.", provider=link.provider.slug)
    failure.gateway_code = getattr(link.dialect, "failure_code", failure.gateway_code)
    return failure
