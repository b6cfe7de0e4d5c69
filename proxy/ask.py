"""Decodes only what routing needs of a request body; the rest stays the caller's bytes."""

import asyncio
from collections.abc import Callable, Generator
from typing import Annotated, Any

import msgspec

from proxy.errors import InvalidRequest
from proxy.json_bounds import (
    MOST_COUNT,
    MOST_FIELDS,
    MOST_MESSAGES,
    UNREADABLE,
    Counted,
    checking,
    decode_at_most,
    fields_of,
    is_null,
    not_json,
    not_text,
    too_many_fields,
)
from routing.table import RouteEntry

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder(str)
_flag = msgspec.json.Decoder(bool | None)
Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_COUNT)]
_number = msgspec.json.Decoder(int | float | None)
_encode = msgspec.json.encode


PLAIN = 8 * 1024
"""Bytes up to which nothing needs to be counted before it is built."""
OWN_TURN = 64 * 1024
"""Bytes above which a body is decoded in turns of the event loop of its own."""
LONGEST_MODEL = 256  # characters


class _Message(msgspec.Struct):
    role: str = ""
    content: msgspec.Raw = msgspec.Raw()
    tool_calls: msgspec.Raw = msgspec.Raw()
    function_call: msgspec.Raw = msgspec.Raw()


class _Chat(msgspec.Struct):
    """What is looked at of every request, where all of it has the type it should have."""

    model: str
    messages: list[_Message]
    stream: bool | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None

    @property
    def answer_limit(self) -> int | None:
        if self.max_tokens is None or self.max_completion_tokens is None:
            return self.max_completion_tokens if self.max_tokens is None else self.max_tokens
        return max(self.max_tokens, self.max_completion_tokens)

    @property
    def is_good(self) -> bool:
        if not self.model or not self.messages:
            return False
        for message in self.messages:  # noqa: SIM110 all() costs twice as much, and this is per request
            if not message.role:
                return False
        return True


_chat = msgspec.json.Decoder(_Chat)


class _CountedMessage(Counted, _Message):
    """One of many."""


_messages = msgspec.json.Decoder(list[_CountedMessage])
_many = msgspec.json.Decoder(list[_Message])  # of those that were counted
_TWINS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
ONLY_WITH = {
    "incremental_output": "stream",
    "stream_options": "stream",
    "parallel_tool_calls": "tools",
    "tool_choice": "tools",
    "function_call": "functions",
    "top_logprobs": "logprobs",
}
"""Parameters that providers refuse with 400 where the other one is not there, or is false."""
_NOTHING = (b"", b"null", b'""', b"[]")


class ChatAsk(msgspec.Struct):
    """A chat completion as asked for; `fields` keeps every value as the bytes it came as."""

    model: str
    stream: bool
    fields: dict[str, msgspec.Raw]
    messages: int
    size: int  # bytes of the whole body
    answer_limit: int | None = None  # the larger of max_completion_tokens and max_tokens, where given
    unlimited: bool = False  # whether it says that it wants none, as -1 does for many servers

    @property
    def prompt_tokens(self) -> int:
        """One token per 3 bytes of the body: an estimate, high on purpose."""
        return self.size // 3 + 1

    @property
    def choices(self) -> int:
        """How many answers are asked for with n."""
        if "n" not in self.fields:
            return 1
        return _within(_whole(self.fields, "n"), "n") or 1

    def body(self, upstream_model: str, defaults: tuple[tuple[str, bytes], ...]) -> bytes:
        """The body for the upstream: the model replaced, defaults added where the caller gave none."""
        fields: dict[str, Any] = self.fields
        fields["model"] = upstream_model
        if defaults:
            fields = self._added(defaults) | fields
        return _encode(fields)

    def _added(self, defaults: tuple[tuple[str, bytes], ...]) -> dict[str, Any]:
        added = {name: msgspec.Raw(raw) for name, raw in defaults if self._lacks(name)}
        added.pop("stream", None)  # whether it streams is the caller's to say, and the door's to serve
        for name in ONLY_WITH.keys() & added.keys():
            if not self._has(ONLY_WITH[name], added):
                del added[name]
        return added

    def _has(self, name: str, added: dict[str, Any]) -> bool:
        if name == "stream":
            return self.stream
        raw = self.fields.get(name)
        raw = added.get(name) if is_null(raw) else raw
        return raw is not None and bytes(raw) not in (b"null", b"false", b"[]")

    def take_back_no_limit(self) -> None:
        """For a caller whose budget bounds the answer: -1 would lift what was reserved."""
        for name in _TWINS:
            self.fields.pop(name, None)
        self.unlimited = False

    def first_without_content(self) -> int | None:
        """Of its messages; for providers that want some in each."""
        messages = _many.decode(self.fields["messages"])
        return next((place for place, one in enumerate(messages) if not _has_content(one)), None)

    def _lacks(self, name: str) -> bool:
        twin = _TWINS.get(name)
        if twin is not None and not is_null(self.fields.get(twin)):
            return False  # the same limit under its other name
        return is_null(self.fields.get(name))


def _answer_limit(fields: dict[str, msgspec.Raw]) -> int | None:
    given = [_whole(fields, name) for name in _TWINS if name in fields]
    return max((tokens for tokens in given if tokens is not None and tokens >= 0), default=None)


def _whole(fields: dict[str, msgspec.Raw], name: str) -> int | None:
    """Also where it is written as 100.0 or 1e2."""
    raw = fields.get(name)
    found: int | float | None = _decode(_number, raw, name, _COUNTS) if raw else None
    if found is not None and (found != found // 1 or abs(found) > MOST_COUNT):
        raise InvalidRequest(f"{name} must be {_COUNTS}.", param=name)
    return None if found is None else int(found)


def _within(count: int | None, name: str) -> int | None:
    if count is not None and count < 0:
        raise InvalidRequest(f"{name} must be {_COUNTS}.", param=name)
    return count


_COUNTS = f"a whole number from 0 to {MOST_COUNT}"


def decode_chat(body: bytes, model_header: str | None) -> ChatAsk:
    """Raises InvalidRequest, which names the field and what is allowed."""
    if len(body) > PLAIN:
        return _to_its_end(_decoding(body, model_header, _no_limit))
    _check_text(body)
    try:
        fields = _fields.decode(body)
    except UNREADABLE as error:
        raise not_json(error) from None
    if len(fields) > MOST_FIELDS:
        raise too_many_fields()
    try:
        chat = _chat.decode(body)
    except UNREADABLE:
        return _explained(fields, model_header, len(body), MOST_MESSAGES)
    model = model_header or chat.model
    if len(model) > LONGEST_MODEL or not chat.is_good:
        return _explained(fields, model_header, len(body), MOST_MESSAGES)
    return ChatAsk(
        model,
        bool(chat.stream),
        fields,
        len(chat.messages),
        len(body),
        chat.answer_limit,
    )


Limit = Callable[[str], int | None]
"""How many messages a model's route allows; None where it says nothing."""


def _no_limit(model: str) -> None:
    return None


class LargeBodies:
    """Decodes one body at a time, and lets the event loop have a turn between its steps."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def decode(self, body: bytes, model_header: str | None, limit: Limit) -> ChatAsk:
        """decode_chat() of a body over OWN_TURN. Raises InvalidRequest."""
        async with self._turn:
            steps = _decoding(body, model_header, limit)
            while True:
                await asyncio.sleep(0)
                try:
                    next(steps)
                except StopIteration as end:
                    ask: ChatAsk = end.value
                    break
        await asyncio.sleep(0)  # to write it again and to send it takes a turn of its own
        return ask


def _decoding(body: bytes, model_header: str | None, limit: Limit) -> Generator[None, None, ChatAsk]:
    """Nothing is built that was not counted before; it pauses between its steps."""
    yield from checking(body)
    yield
    fields = fields_of(body)
    yield
    most = limit(model_header or _model(fields)) or MOST_MESSAGES
    return _explained(fields, model_header, len(body), most)


def _to_its_end(steps: Generator[None, None, ChatAsk]) -> ChatAsk:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            ask: ChatAsk = end.value
            return ask


def _explained(fields: dict[str, msgspec.Raw], model_header: str | None, size: int, most: int) -> ChatAsk:
    """Field by field, to say which one is wrong."""
    limit = _answer_limit(fields)
    return ChatAsk(
        model=_short(model_header or _model(fields)),
        stream=bool(_decode(_flag, fields.get("stream", b"null"), "stream", "true or false")),
        fields=fields,
        messages=_checked_messages(fields, most),
        size=size,
        answer_limit=limit,
        unlimited=limit is None and not all(is_null(fields.get(name)) for name in _TWINS),
    )


def _short(model: str) -> str:
    if len(model) > LONGEST_MODEL:
        raise InvalidRequest(f"model must have at most {LONGEST_MODEL} characters.", param="model")
    return model


def _check_text(body: bytes) -> None:
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            raise not_text() from None


def _decode(decoder: msgspec.json.Decoder, raw: Any, field: str, allowed: str) -> Any:
    try:
        return decoder.decode(raw)
    except UNREADABLE:
        raise InvalidRequest(f"{field} must be {allowed}.", param=field) from None


def _model(fields: dict[str, msgspec.Raw]) -> str:
    raw = fields.get("model")
    if raw is None:
        raise InvalidRequest(
            "model is missing: name one of GET /v1/models.", param="model", code="missing_field"
        )
    name: str = _decode(_text, raw, "model", "a model name (text)")
    if not name:
        raise InvalidRequest(
            "model is empty: name one of GET /v1/models.", param="model", code="missing_field"
        )
    return name


def _checked_messages(fields: dict[str, msgspec.Raw], most: int) -> int:
    raw = fields.get("messages")
    if raw is None or is_null(raw):
        raise InvalidRequest(
            "messages is missing: a list of at least one message.", param="messages", code="missing_field"
        )
    messages = _read_messages(raw, most)
    if not messages:
        raise InvalidRequest(
            "messages is empty: at least one is needed.", param="messages", code="missing_field"
        )
    for index, message in enumerate(messages):
        if not message.role:
            raise InvalidRequest(
                f"messages[{index}] has no role.", param=f"messages[{index}].role", code="missing_field"
            )
    return len(messages)


def _read_messages(raw: msgspec.Raw, most: int) -> list[_CountedMessage]:
    try:
        messages: list[_CountedMessage] | None = decode_at_most(most, _messages, raw)
    except UNREADABLE:
        raise InvalidRequest(
            "messages must be a list of objects, each with role and content.", param="messages"
        ) from None
    if messages is None:
        raise InvalidRequest(
            f"messages has more than the {most:,} entries allowed.",
            param="messages",
            code="too_many_messages",
        )
    return messages


def _has_content(message: _Message) -> bool:
    if bytes(message.content) not in _NOTHING:
        return True
    # An assistant's call of a tool needs no text, and a tool may return an empty one.
    called = bytes(message.tool_calls) not in _NOTHING or bytes(message.function_call) not in _NOTHING
    return called or (message.role in ("tool", "function") and bytes(message.content) == b'""')


def check_message_count(ask: ChatAsk, route: RouteEntry) -> None:
    """Raises InvalidRequest where the route allows fewer messages."""
    if route.max_messages is not None and ask.messages > route.max_messages:
        raise InvalidRequest(
            f"messages has {ask.messages} entries; {route.name} allows at most {route.max_messages}.",
            param="messages",
            code="too_many_messages",
        )
