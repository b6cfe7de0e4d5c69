"""Step 6 for an answer that is here from end to end: there is nothing to relay."""

import time
from collections.abc import Callable

import msgspec

from proxy.ask import ChatAsk
from proxy.attempts.reading import Answer
from proxy.calls.call import Call
from proxy.errors import Refusal
from proxy.json_bounds import UNREADABLE
from proxy.metering.usage import Usage, told_or_estimated
from proxy.sse import StreamReader
from proxy.stream_usage import UsageFilter

MOST_OBJECTS = 20_000  # of an answer whose texts are looked at, where it tells no usage


class _Message(msgspec.Struct):
    content: msgspec.Raw = msgspec.Raw()
    reasoning_content: msgspec.Raw = msgspec.Raw()
    tool_calls: msgspec.Raw = msgspec.Raw()


class _Choice(msgspec.Struct):
    message: _Message


class _Texts(msgspec.Struct):
    choices: list[_Choice]


_texts = msgspec.json.Decoder(_Texts)


def usage_of(answer: Answer, ask: ChatAsk) -> Usage:
    """As the provider reported it, else estimated from what was asked and what was answered."""
    told = answer.usage
    if told is not None and told.input >= 0 and told.output >= 0:
        return told
    return told_or_estimated(told, ask.size, _text_bytes(answer.body))


def read_stream(answer: Answer, ask: ChatAsk) -> tuple[bytes, Usage] | None:
    """What the caller is to get of a stream that came whole with its first chunk, and its usage.

    None where more is to come, or where it didn't end well.
    """
    if answer.kept or not answer.response.over:
        return None
    reader, body = StreamReader(), answer.body
    if reader.feed(body) < len(body) or reader.waiting or reader.failed or not reader.whole:
        return None
    told = UsageFilter().take(body) if answer.hides_usage else body
    return told, told_or_estimated(reader.usage, ask.size, reader.size)


def _text_bytes(body: bytes) -> int:
    if body.count(b"{") > MOST_OBJECTS:
        return len(body)
    try:
        choices = _texts.decode(body).choices
    except UNREADABLE:  # not of the usual shape: all of it, rather than nothing
        return len(body)
    return sum(
        len(bytes(text))
        for choice in choices
        for text in (choice.message.content, choice.message.reasoning_content, choice.message.tool_calls)
        if bytes(text) != b"null"
    )


class Whole(msgspec.Struct, eq=False):
    """The door sends `body` and then calls close(), however that went."""

    status: int
    body: bytes
    content_type: str
    call: Call
    account: Callable[[Call], None]
    headers: bytes = b""  # lines, each with CR LF; there once the engine has finished it

    def replace(self, refusal: Refusal) -> None:
        """Send this instead."""
        self.status, self.headers, self.body = refusal.status, refusal.headers, refusal.body

    def close(self, *, hung_up: bool = False) -> None:
        """Account for the call. `hung_up`: the client left before it had the answer."""
        call = self.call
        if not hung_up:
            call.first_byte = time.perf_counter()
        call.status = self.status
        call.outcome = "client_gone" if hung_up else call.outcome or "answered"
        self.account(call)
