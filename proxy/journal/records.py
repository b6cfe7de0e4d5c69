"""The two records of a call, and the line each is written as."""

import msgspec

from routing.table import RouteEntry, TargetEntry

try:
    from isal.isal_zlib import crc32
except ImportError:  # no wheel for this processor: the same checksum, from tables
    from zlib import crc32


SAME = ""
"""A request id that is the call's own id: nearly all are, and needn't be written twice."""


class Opened(msgspec.Struct, tag="opened", omit_defaults=True):
    """Written before the provider is called."""

    id: str
    received_at_ns: int  # Unix time
    endpoint: str
    stream: bool
    model: str
    key_id: int | None
    key_name: str
    team: str
    route: str
    request_id: str = SAME
    reserved_nano_usd: int | None = None  # held against budgets
    target_id: int | None = None  # the target that it was reserved for
    provider: str = ""
    upstream_model: str = ""
    shadow: bool = False


class Closed(msgspec.Struct, tag="closed", omit_defaults=True):
    """Written when the call is over, however it ended. Times in milliseconds; the row in full."""

    id: str
    received_at_ns: int
    outcome: str
    endpoint: str
    request_id: str = SAME
    stream: bool = False
    status: int | None = None
    error_code: str = ""
    model: str = ""
    key_id: int | None = None
    key_name: str = ""
    team: str = ""
    route: str = ""
    target_id: int | None = None
    provider: str = ""
    upstream_model: str = ""
    attempts: int = 0
    attempt_trail: list[dict[str, str | int | float]] = []
    shadow: bool = False  # a copy of another call, under the same request id
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    audio_input_tokens: int | None = None
    audio_output_tokens: int | None = None
    image_input_tokens: int | None = None
    image_output_tokens: int | None = None
    tokens_estimated: bool = False
    abandoned: str = ""  # what became of the provider's answer when the client was gone
    price: str = ""  # that the cost was made from
    cost_nano_usd: int | None = None
    total_ms: float | None = None
    overhead_ms: float | None = None
    ttft_ms: float | None = None
    tags: list[str] = []
    client_info: str = ""
    user_agent: str | None = None
    client_address: str | None = None


class Common(msgspec.Struct, eq=False):
    """What the rows of all calls have in common that ask alike, with one key, and are served alike.

    A row is a copy of one of these, with what is the call's own put in: half of what making one costs.
    """

    route: RouteEntry
    target: TargetEntry | None
    opened: Opened
    closed: Closed


Record = Opened | Closed
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


class BadLine(Exception):
    """The line is torn or altered."""


def to_line(record: Record) -> bytes:
    """CRC-32 of the JSON in 8 hexadecimal digits, a blank, the JSON, a newline."""
    document = _encode(record)
    return b"%08x %s\n" % (crc32(document), document)


def from_line(line: bytes) -> Record:
    """Raises BadLine. The record's request id is spelled out."""
    document = line[9:].rstrip(b"\n")
    try:
        if int(line[:8], 16) != crc32(document):
            raise BadLine("checksum differs")
        record: Record = _decode(document)
    except (ValueError, msgspec.DecodeError) as error:
        raise BadLine(str(error)) from error
    if record.request_id == SAME:
        record.request_id = record.id
    return record
