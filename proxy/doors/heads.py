"""A request's head: how large it may be, what its lines say together, what of it may be ignored."""

from collections.abc import Iterable, Sequence

from django.conf import settings

from proxy.errors import GatewayError, HeadTooLarge, InvalidRequest, UrlTooLong

Line = tuple[bytes, bytes]

CREDENTIALS = frozenset((b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"x-litellm-api-key"))
URL_SHARE = 4  # a URL may be so much of a head: a quarter
_OFFERS = (b"upgrade", b"http2-settings")


def together(lines: Sequence[Line]) -> dict[bytes, bytes]:
    """Each name once; what stands in several lines is one list (RFC 9110, 5.3).

    Raises InvalidRequest where it can't be one.
    """
    headers = dict(lines)
    return headers if len(headers) == len(lines) else joined(lines)


def joined(lines: Iterable[Line]) -> dict[bytes, bytes]:
    """The same, where some name is known to be there twice."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in lines:
        values.setdefault(name, []).append(value)
    return {name: _one(name, given) for name, given in values.items()}


def _one(name: bytes, given: list[bytes]) -> bytes:
    differ = len(set(given)) > 1
    if name == b"host" and len(given) > 1:
        raise InvalidRequest("There is more than one Host header.", param="host")
    if differ and name in CREDENTIALS:
        text = name.decode()
        raise InvalidRequest(f"The header {text} is there twice, with different values.", param=text)
    return b", ".join(given) if differ else given[0]


def too_large(url: bytes, lines: Sequence[Line], arrived: int) -> GatewayError | None:
    """Of a head of which so many bytes have arrived at least; it may not be whole."""
    most: int = settings.HEAD_BYTES
    if len(url) > most // URL_SHARE:
        return UrlTooLong(f"The URL is longer than the {most // URL_SHARE:,} bytes allowed.")
    if len(lines) > settings.HEAD_LINES:
        return HeadTooLarge(f"There are more than the {settings.HEAD_LINES:,} headers allowed.")
    if max(arrived, size(url, lines)) > most:
        return HeadTooLarge(f"The headers are larger than the {most:,} bytes allowed.")
    return None


def size(url: bytes, lines: Iterable[Line]) -> int:
    return len(url) + sum(len(name) + len(value) + 4 for name, value in lines)


def without_offer(method: bytes, url: bytes, version: str, lines: Iterable[Line]) -> bytes:
    """The same head without its offer to go on in another protocol, which a server may ignore."""
    kept = [b"%b %b HTTP/%b\r\n" % (method, url, version.encode())]
    for name, value in lines:
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            value = b", ".join(option for option in options if option.lower() not in _OFFERS)
        if name not in _OFFERS:
            kept.append(b"%b: %b\r\n" % (name, value))
    return b"".join((*kept, b"\r\n"))
