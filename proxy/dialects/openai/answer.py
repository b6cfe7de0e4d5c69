"""Whole answers: whether there is one, and its usage. What only the books read never decides."""

import re
from typing import Any

import msgspec

from proxy.dialects.base import MalformedAnswer
from proxy.dialects.openai.errors import BOM
from proxy.metering.reported_usage import ReportedUsage, lenient
from proxy.metering.usage import Usage

NULL = msgspec.Raw(b"null")
LARGE = 64 * 1024  # bytes of an answer
LONGEST_DETAIL = 64 * 1024  # bytes of a usage or an error that are looked into


class _Answer(msgspec.Struct, gc=False):
    choices: list[msgspec.Raw] | None = None
    usage: ReportedUsage | None = None
    error: msgspec.Raw = NULL


class _Loose(msgspec.Struct, gc=False):
    """Raw: to build what a large answer is made of may take long."""

    choices: msgspec.Raw = NULL
    usage: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


LONGEST_MENDED = 1024 * 1024  # bytes
_HALF = re.compile(rb"\\(?:u[dD][89a-fA-F][0-9a-fA-F]{2}|.)", re.DOTALL)
_answer = msgspec.json.Decoder(_Answer)
_loose = msgspec.json.Decoder(_Loose)
_any = msgspec.json.Decoder()
NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_answer(body: bytes) -> Usage | None:
    """The usage of a whole answer; None where it tells none that can be read.

    Raises MalformedAnswer where it is no JSON, tells of an error, or holds no answer.
    """
    if len(body) > LARGE:
        return _read_loosely(body)
    try:
        answer = _answer.decode(body)
    except NO_JSON:
        return _read_loosely(body)
    if answer.choices is not None and bytes(answer.error) == b"null":
        return answer.usage.tokens() if answer.usage else None
    return _read_loosely(body)


def _read_loosely(body: bytes) -> Usage | None:
    try:
        answer = _loose.decode(body.removeprefix(BOM))
    except NO_JSON:
        if (mended := without_halves(body)) != body:
            return _read_loosely(mended)
        raise MalformedAnswer("answered 200 with malformed JSON") from None
    if is_error(answer.error):
        raise MalformedAnswer("answered 200 with an error in the body")
    if memoryview(answer.choices)[:1] != b"[":
        raise MalformedAnswer("answered 200 without an answer: it has no choices")
    usage = lenient(_decoded(answer.usage)) if len(answer.usage) <= LONGEST_DETAIL else None
    return usage.tokens() if usage else None


def without_halves(data: bytes) -> bytes:
    """To be read only: JSON allows half a character (\\ud83d), some cut one so; the decoder refuses it."""
    if len(data) > LONGEST_MENDED or not (b"\\ud" in data or b"\\uD" in data):
        return data
    return _HALF.sub(lambda found: b"\\ufffd" if len(found[0]) > 2 else found[0], data)


def is_error(raw: msgspec.Raw) -> bool:
    """Whether a body's `error` says anything: some providers send an empty one with each answer."""
    return len(raw) > LONGEST_DETAIL or says_something(_decoded(raw))


def says_something(value: Any) -> bool:
    """Whether there is anything in it but nothings, however deep."""
    if isinstance(value, dict):
        return any(map(says_something, value.values()))
    if isinstance(value, list):
        return any(map(says_something, value))
    return bool(value)


def _decoded(raw: msgspec.Raw) -> Any:
    try:
        return _any.decode(raw)
    except NO_JSON:
        return None
