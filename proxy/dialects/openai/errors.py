"""Error bodies of OpenAI's API and of those that follow it in other shapes."""

import re
from typing import Any

import msgspec

LONGEST_MESSAGE = 2000  # characters kept of an upstream's error message
LONGEST_CODE = 64
MOST_NUMBER = 10**12  # no code is larger; Python refuses to write numbers of thousands of digits
BOM = b"\xef\xbb\xbf"
DEEPEST = 6  # levels that are searched for a message

_WHERE = (
    "error",
    "message",
    "msg",
    "error_msg",
    "errorMessage",
    "detail",
    "errors",
    "status_msg",
    "base_resp",
)
_TAG = re.compile(
    r"<(?:(?:script|style|head)\b.*?</(?:script|style|head)\s*>|[^>]*>)", re.DOTALL | re.IGNORECASE
)
_STATUS = re.compile(r"[1-5]\d\d")
_CODE = re.compile(r"[\w.:/-]+")


class ErrorFields(msgspec.Struct, frozen=True):
    message: str = ""  # of a field that is known to hold one, else the body's text
    known: bool = False  # whether it is of such a field
    is_json: bool = False
    code: str = ""
    kind: str = ""  # the error's `type`, or its `status` at Google's
    param: str | None = None
    flagged: bool = False  # OpenRouter: moderation says what was refused

    @property
    def text(self) -> str:
        """All that the provider says of the cause in fields of its own."""
        return " ".join((self.message if self.known else "", self.code, self.kind))


def read_error(body: bytes) -> ErrorFields:
    """Whichever of the usual shapes the body has; its text where it has none of them."""
    body = body.removeprefix(BOM)
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ErrorFields(message=_plain_text(body))
    message = _message(document)
    outer = _first_object(document)
    inner = _first_object(outer.get("error"))
    metadata = inner.get("metadata")
    flagged = isinstance(metadata, dict) and ("flagged_input" in metadata or bool(metadata.get("reasons")))
    kind = _text(inner.get("type") or outer.get("type")) or _text(inner.get("status"))
    return ErrorFields(
        message or _plain_text(body),
        bool(message),
        True,
        _text(inner.get("code")) or _text(outer.get("code")),
        kind,
        _text(inner.get("param") or outer.get("param")) or None,
        flagged,
    )


def word_code(code: str) -> str:
    """A provider's code where it is one; some put a sentence or an HTTP status there."""
    return code if len(code) <= LONGEST_CODE and _CODE.fullmatch(code) and not _STATUS.fullmatch(code) else ""


def _message(value: Any, depth: int = DEEPEST) -> str:
    if isinstance(value, str):
        return value.strip()[:LONGEST_MESSAGE]
    if depth == 0:
        return ""
    if isinstance(value, list):
        return next((found for item in value[:8] if (found := _message(item, depth - 1))), "")
    if isinstance(value, dict):
        return next((found for name in _WHERE if (found := _message(value.get(name), depth - 1))), "")
    return ""


def _first_object(value: Any) -> dict[str, Any]:
    if isinstance(value, list):  # Gemini's OpenAI door wraps its error in a list
        value = value[0] if value else None
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.replace("\0", "").strip()[:LONGEST_MESSAGE]
    return str(value) if type(value) is int and abs(value) <= MOST_NUMBER else ""


def _plain_text(body: bytes) -> str:
    text = body[: 4 * LONGEST_MESSAGE].decode("utf-8", "replace")
    if text.lstrip()[:1] == "<":  # a page, usually of a load balancer
        text = _TAG.sub(" ", text)
    return " ".join(text.split())[:LONGEST_MESSAGE]
