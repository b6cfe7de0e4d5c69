"""What bounds the JSON of a request before it is built: how many fields and messages, how deep, how dense.

A body may have any size up to MAX_BODY_BYTES, and its decoder holds the interpreter: what it is made of
decides how long. Figures: docs/decisions.md.
"""

import codecs
from collections.abc import Iterator
from typing import Any

import msgspec

from proxy.errors import InvalidRequest

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises for bytes that are no JSON, not of the wanted type, or nested too deeply."""

MOST_FIELDS = 1000  # at the top of a body
MOST_MESSAGES = 10_000  # where the route says nothing
MOST_COUNT = 2**53 - 1  # what every client and JSON reader writes exactly
LONGEST_SMALL = 64 * 1024  # bytes of a field that is read whole
SMALL_FIELDS = ("model", "stream", "max_tokens", "max_completion_tokens", "n", "user", "stream_options")

DENSE_FROM = 8 * 1024 * 1024  # bytes; below, no body takes long
MOST_MARKS = 1_000_000
MOST_COMMAS = 3_000_000
MOST_BLANKS = 3_000_000  # pairs of them, and breaks of lines
PIECE = 4 * 1024 * 1024  # bytes looked at in one go


class _Left:
    """How many more the decoder that runs now may build."""

    count = 0


def _count_one() -> None:
    _Left.count -= 1
    if _Left.count < 0:
        raise ValueError("too many")


class _Name(str):
    __slots__ = ()


def _counted_name(kind: type, value: str) -> _Name:
    _count_one()
    return _Name(value)


_fields = msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=_counted_name)


class Counted:
    """Base of structs of which a list has at most as many as the decoder may build."""

    __slots__ = ()

    def __post_init__(self) -> None:
        _count_one()


def fields_of(body: bytes) -> dict[str, msgspec.Raw]:
    """Raises InvalidRequest, also for too many: before they are built."""
    _Left.count = MOST_FIELDS
    try:
        found = _fields.decode(body)
    except UNREADABLE as error:
        raise (too_many_fields() if _Left.count < 0 else not_json(error)) from None
    for name in SMALL_FIELDS:
        if name in found and size_of(found[name]) > LONGEST_SMALL:  # type: ignore[index]
            raise InvalidRequest(f"{name} must have at most {LONGEST_SMALL:,} bytes.", param=name)
    return {str(name): raw for name, raw in found.items()}


def decode_at_most(most: int, decoder: msgspec.json.Decoder[Any], raw: Any) -> Any:
    """None where there are more. Raises what the decoder raises."""
    _Left.count = most
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError:
        if _Left.count < 0:
            return None
        raise


def too_many_fields() -> InvalidRequest:
    return InvalidRequest(
        f"The body has more than {MOST_FIELDS:,} fields; at most that many are allowed.",
        code="too_many_fields",
    )


def not_json(error: BaseException) -> InvalidRequest:
    """What is wrong with a body that was to be an object of JSON."""
    if isinstance(error, msgspec.ValidationError):
        return InvalidRequest("The body must be a JSON object.", code="invalid_json")
    if isinstance(error, RecursionError):
        return InvalidRequest("The body is nested too deeply.", code="invalid_json")
    return InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json")


def not_text() -> InvalidRequest:
    return InvalidRequest("The body is not valid JSON: it is not UTF-8.", code="invalid_json")


def checking(body: bytes) -> Iterator[None]:
    """Pauses now and then. Raises InvalidRequest for what is no text, or would take a decoder too long."""
    if not body.isascii():
        yield from _checking_text(body)
    if len(body) <= DENSE_FROM:
        return
    marks = commas = blanks = 0
    for begin in range(0, len(body), PIECE):
        yield
        end = begin + PIECE
        marks += sum(body.count(mark, begin, end) for mark in (b"{", b"[", b":"))
        commas += body.count(b",", begin, end)
        blanks += sum(body.count(blank, begin, end) for blank in (b"  ", b"\n", b"\t", b"\r"))
    if marks > MOST_MARKS or commas > MOST_COMMAS or blanks > MOST_BLANKS:
        raise InvalidRequest(
            f"A body of more than {DENSE_FROM:,} bytes may have at most {MOST_MARKS:,} of {{ [ : together, "
            f"{MOST_COMMAS:,} commas and {MOST_BLANKS:,} runs of blanks.",
            code="body_too_dense",
        )


def _checking_text(body: bytes) -> Iterator[None]:
    decoder, view = codecs.getincrementaldecoder("utf-8")(), memoryview(body)
    try:
        for begin in range(0, len(body), PIECE):
            decoder.decode(view[begin : begin + PIECE], final=begin + PIECE >= len(body))
            yield
    except UnicodeDecodeError:
        raise not_text() from None


def size_of(raw: msgspec.Raw) -> int:
    return memoryview(raw).nbytes


def is_null(raw: msgspec.Raw | None) -> bool:
    return raw is None or (size_of(raw) == 4 and bytes(raw) == b"null")
