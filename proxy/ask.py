"""Decodes only what routing needs of a request body; the rest stays the caller's bytes."""

from typing import Any

import msgspec

from proxy.errors import InvalidRequest
from routing.table import RouteEntry

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder(str)
_flag = msgspec.json.Decoder(bool | None)
_count = msgspec.json.Decoder(int | None)
_encode = msgspec.json.encode


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
    max_tokens: int | None = None
    max_completion_tokens: int | None = None

    @property
    def answer_limit(self) -> int | None:
        if self.max_tokens is None or self.max_completion_tokens is None:
            return self.max_completion_tokens if self.max_tokens is None else self.max_tokens
        return max(self.max_tokens, self.max_completion_tokens)

    @property
    def is_good(self) -> bool:
        if not self.model or not self.messages:
            return False
        if (self.max_tokens or 0) < 0 or (self.max_completion_tokens or 0) < 0:
            return False
        for message in self.messages:  # noqa: SIM110 all() costs twice as much, and this is per request
            if not message.role or not _has_content(message):
                return False
        return True


_chat = msgspec.json.Decoder(_Chat)
_messages = msgspec.json.Decoder(list[_Message])
_TWINS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_NOTHING = (b"", b"null", b'""', b"[]")


class ChatAsk(msgspec.Struct):
    """A chat completion as asked for; `fields` keeps every value as the bytes it came as."""

    model: str
    stream: bool
    fields: dict[str, msgspec.Raw]
    messages: int
    size: int  # bytes of the whole body
    answer_limit: int | None = None  # the larger of max_completion_tokens and max_tokens, where given

    @property
    def prompt_tokens(self) -> int:
        """One token per 3 bytes of the body: an estimate, high on purpose."""
        return self.size // 3 + 1

    @property
    def choices(self) -> int:
        """How many answers are asked for with n."""
        return _whole(self.fields, "n") or 1 if "n" in self.fields else 1

    def body(self, upstream_model: str, defaults: tuple[tuple[str, bytes], ...]) -> bytes:
        """The body for the upstream: the model replaced, defaults added where the caller gave none."""
        fields: dict[str, Any] = self.fields
        fields["model"] = upstream_model
        if defaults:
            fields = {name: msgspec.Raw(raw) for name, raw in defaults if self._lacks(name)} | fields
        return _encode(fields)

    def _lacks(self, name: str) -> bool:
        twin = _TWINS.get(name)
        if twin is not None and not _is_null(self.fields.get(twin)):
            return False  # the same limit under its other name
        return _is_null(self.fields.get(name))


def _is_null(raw: msgspec.Raw | None) -> bool:
    return raw is None or bytes(raw) == b"null"


def _answer_limit(fields: dict[str, msgspec.Raw]) -> int | None:
    given = [_whole(fields, name) for name in ("max_completion_tokens", "max_tokens") if name in fields]
    return max((tokens for tokens in given if tokens is not None), default=None)


def _whole(fields: dict[str, msgspec.Raw], name: str) -> int | None:
    raw = fields.get(name)
    found: int | None = _decode(_count, raw, name, "a whole number") if raw else None
    if found is not None and found < 0:
        raise InvalidRequest(f"{name} must be a whole number of 0 or more.", param=name)
    return found


def decode_chat(body: bytes, model_header: str | None) -> ChatAsk:
    """Raises InvalidRequest, which names the field and what is allowed."""
    _check_text(body)
    try:
        fields = _fields.decode(body)
    except msgspec.ValidationError:
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json") from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    try:
        chat = _chat.decode(body)
    except msgspec.ValidationError:
        return _explained(fields, model_header, len(body))
    if not chat.is_good:
        return _explained(fields, model_header, len(body))
    return ChatAsk(
        model_header or chat.model,
        bool(chat.stream),
        fields,
        len(chat.messages),
        len(body),
        chat.answer_limit,
    )


def _explained(fields: dict[str, msgspec.Raw], model_header: str | None, size: int) -> ChatAsk:
    """Field by field, to say which one is wrong."""
    return ChatAsk(
        model=model_header or _model(fields),
        stream=bool(_decode(_flag, fields.get("stream", b"null"), "stream", "true or false")),
        fields=fields,
        messages=_checked_messages(fields),
        size=size,
        answer_limit=_answer_limit(fields),
    )


def _check_text(body: bytes) -> None:
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(
                "The body is not valid JSON: it is not UTF-8.", code="invalid_json"
            ) from None


def _decode(decoder: msgspec.json.Decoder, raw: Any, field: str, allowed: str) -> Any:
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
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


def _checked_messages(fields: dict[str, msgspec.Raw]) -> int:
    raw = fields.get("messages")
    if raw is None or bytes(raw) == b"null":
        raise InvalidRequest(
            "messages is missing: a list of at least one message.", param="messages", code="missing_field"
        )
    messages: list[_Message] = _decode(
        _messages, raw, "messages", "a list of objects, each with role and content"
    )
    if not messages:
        raise InvalidRequest(
            "messages is empty: at least one is needed.", param="messages", code="missing_field"
        )
    for index, message in enumerate(messages):
        if not message.role:
            raise InvalidRequest(
                f"messages[{index}] has no role.", param=f"messages[{index}].role", code="missing_field"
            )
        if not _has_content(message):
            raise InvalidRequest(
                f"messages[{index}] has no content.", param=f"messages[{index}].content", code="missing_field"
            )
    return len(messages)


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
